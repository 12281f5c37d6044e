"""Makes `small_runs` importable, and trains one small model for all tests of this folder."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))

from small_runs import draw_pictures, settings, start


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A run that has learnt something. Tests must not write into it."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    length = {"steps": 60, "batch": 16, "measurements": 2, "previews": 1, "checkpoints": 2}
    start(settings(pictures, optim={"rate": 5e-3, "warmup": 5}, run=length), out)
    return out
