"""What the tests of autoencoders share."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec


@pytest.fixture(scope="session")
def pictures() -> ArrayPictures:
    """Forty smooth pictures of 16 by 16."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(40, 3, 4, 4, generator=generator)
    stored = (255 * torch.nn.functional.interpolate(small, size=16, mode="bilinear")).round().to(torch.uint8)
    names = [f"picture-{i:02d}.png" for i in range(40)]
    return ArrayPictures(DataSpec.measure(stored), stored, names=names)
