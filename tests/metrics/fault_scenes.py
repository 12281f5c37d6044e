"""Pictures with known kinds, a judge that needs no training, and an evaluation of them: for the tests of faults."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet

CLASSES = ("north", "east", "south", "west")
CENTRES = ((4, 8), (8, 12), (12, 8), (8, 4))
SIZE = 16


def blobs(seed: int, labels: Tensor) -> Tensor:
    """(N, 3, 16, 16) uint8: a soft blob whose place is its class, of warm colours on a blue ground, with fine grain."""
    generator = torch.Generator().manual_seed(seed)
    n = len(labels)
    y, x = torch.meshgrid(torch.arange(SIZE).float(), torch.arange(SIZE).float(), indexing="ij")
    centre = torch.tensor(CENTRES, dtype=torch.float32)[labels] + torch.randn(n, 2, generator=generator) * 0.5
    far = (y - centre[:, 0, None, None]).square() + (x - centre[:, 1, None, None]).square()
    width = 5.0 + 4.0 * torch.rand(n, 1, 1, generator=generator)
    mask = (-far / width).exp()[:, None]
    vary = 0.1 * torch.randn(n, 3, 1, 1, generator=generator)
    front = torch.tensor([0.8, 0.1, -0.5]).view(1, 3, 1, 1) + vary
    back = torch.tensor([-0.5, -0.2, 0.3]).view(1, 3, 1, 1) + vary.flip(0)
    grain = 0.05 * torch.randn(n, 1, SIZE, SIZE, generator=generator)
    picture = mask * front + (1 - mask) * back + grain
    return ((picture.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


class ByPlace(nn.Module):
    """Sees where the blob is, by the colours it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.3, -0.6]), requires_grad=False)

    def predict(self, x: Tensor, *, batch: int = 256) -> Tensor:
        gray = (x * self.weight.view(1, 3, 1, 1)).sum(1)
        ends = torch.stack([gray[:, 2:7, 6:11], gray[:, 6:11, 10:15], gray[:, 10:15, 6:11], gray[:, 6:11, 2:7]], 1)
        return ends.mean((2, 3)).argmax(1)


def spec_of(stored: Tensor, classes: tuple[str, ...] = CLASSES) -> DataSpec:
    return DataSpec.measure(stored, classes=classes)


def labels_of(n: int) -> Tensor:
    return torch.arange(n) % len(CLASSES)


def reference(seed: int = 0, *, training: int = 512, held_out: int = 128, labeled: bool = True) -> Reference:
    sets = []
    spec: DataSpec | None = None
    for number, count in enumerate((training, held_out)):
        labels = labels_of(count)
        stored = blobs(1000 * seed + number, labels)
        spec = spec or spec_of(stored, CLASSES if labeled else ())
        given = labels.tolist() if labeled else None
        sets.append(ArrayPictures(spec, stored.numpy().astype(np.uint8), labels=given))
    return Reference.of(sets[0], sets[1], seed=seed)


def evaluation(seed: int = 0, *, labeled: bool = True) -> Evaluation:
    return Evaluation(reference(seed, labeled=labeled), [], [])


def samples(seed: int, n: int, spec: DataSpec) -> PictureSet:
    labels = labels_of(n)
    return PictureSet(blobs(9000 + seed, labels), spec, labels if spec.classes else None)
