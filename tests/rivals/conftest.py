"""What the tests of rivals share."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.rivals import HOMES


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind "toy"."""
    monkeypatch.setitem(HOMES, "toy", ("toy_rival", "ToyRival"))


@pytest.fixture(scope="session")
def pictures() -> ArrayPictures:
    """Forty labelled pictures of 8 by 8."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    stored = torch.randint(0, 100, (40, 3, 8, 8), generator=generator) + 100 * labels.view(-1, 1, 1, 1)
    stored = stored.to(torch.uint8)
    spec = DataSpec.measure(stored, classes=("dark", "light"))
    return ArrayPictures(spec, stored, labels=labels)
