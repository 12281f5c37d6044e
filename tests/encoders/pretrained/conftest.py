"""Folders with tiny networks of others, made once."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

# Looked for, not imported: every worker collects these tests, one runs them.
if importlib.util.find_spec("transformers") is None:
    pytest.skip("transformers is not installed", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(folder, network of transformers) of a text tower with its projection. Tests must not write into it."""
    import tiny_networks

    folder = tmp_path_factory.mktemp("encoders") / "clip"
    return folder, tiny_networks.clip_text(folder)


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The same of a T5 encoder."""
    import tiny_networks

    folder = tmp_path_factory.mktemp("encoders") / "t5"
    return folder, tiny_networks.t5(folder)
