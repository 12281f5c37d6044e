"""Sharpness: real pictures score their null, blur falls and grain rises, contrast does not matter."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.data.spec import DataSpec
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.sharpness import Sharpness, SharpnessJudge


def textures(count: int, seed: int, size: int = 16) -> Tensor:
    """Pictures in [-1, 1] with detail of every size."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(count, 3, size, size)
    for side in (2, 4, 8, 16):
        part = torch.randn(count, 3, side, side, generator=generator)
        x += 0.2 * F.interpolate(part, size=(size, size), mode="nearest")
    return x.clamp(-1.0, 1.0)


SPEC = DataSpec.measure(((textures(64, 0) + 1) * 127.5).to(torch.uint8).numpy(), mode="RGB")


def pictures(x: Tensor) -> PictureSet:
    return PictureSet.sampled(x, SPEC)


@pytest.fixture(scope="module")
def judge() -> SharpnessJudge:
    pool = pictures(textures(200, 1))
    return SharpnessJudge(Evaluation(Reference(pool, pool, pool, pool), [], []))


def measured(judge: SharpnessJudge, x: Tensor) -> Sharpness:
    found = judge.measure(pictures(x))
    assert found is not None
    return found


def test_real_pictures_score_their_null(judge: SharpnessJudge) -> None:
    found = measured(judge, textures(80, 2))
    assert abs(found.record.value) < 4 * (found.record.stderr + (found.record.null_stderr or 0.0))
    assert found.ratios == pytest.approx([1.0] * len(found.ratios), rel=0.35)
    assert found.record.better == "null"


def test_blur_falls_the_more_the_wider_and_grain_rises(judge: SharpnessJudge) -> None:
    x = textures(80, 3)
    values = [measured(judge, x).record.value]
    for width in (3, 5):
        kernel = torch.ones(3, 1, width, width) / width**2
        values.append(measured(judge, F.conv2d(F.pad(x, [width // 2] * 4, "reflect"), kernel, groups=3)).record.value)
    assert values[0] > values[1] + 0.5
    assert values[1] > values[2]
    grain = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    assert measured(judge, grain).record.value > values[0] + 0.3


def test_contrast_is_no_sharpness(judge: SharpnessJudge) -> None:
    x = textures(80, 4)
    assert measured(judge, 0.5 * x).record.value == pytest.approx(measured(judge, x).record.value, abs=0.05)


def test_pictures_too_small_have_none() -> None:
    spec = DataSpec.measure(torch.randint(0, 255, (64, 3, 2, 2)).to(torch.uint8).numpy(), mode="RGB")
    pool = PictureSet(torch.randint(0, 255, (64, 3, 2, 2)).to(torch.uint8), spec)
    judge = SharpnessJudge(Evaluation(Reference(pool, pool, pool, pool), [], []))
    assert judge.measure(pool.take(range(16))) is None
