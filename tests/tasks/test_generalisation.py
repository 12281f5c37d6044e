"""Exact denoisers say what the gap must be: one that knows the training pictures, one that knows all."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.oracles import DataSet
from kakusan.schedules import Cosine
from kakusan.tasks.generalisation import LEVELS, gap_between
from kakusan.time_samplers import Uniform

SCHEDULE = Cosine()


def pictures(seed: int, count: int) -> ArrayPictures:
    stored = np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    return ArrayPictures(DataSpec.measure(stored), stored)


def knowing(*sets: ArrayPictures) -> Any:
    """What `gap_between` needs of a pipeline, around the exact denoiser of some pictures."""
    members = torch.cat([part.spec.to_model(part.read(range(len(part)))) for part in sets])
    oracle = DataSet(members, schedule=SCHEDULE)
    model = SimpleNamespace(denoiser=SimpleNamespace(trained_schedule=SCHEDULE), conditioner=None)
    facts = SimpleNamespace(objective=SimpleNamespace(time_sampler=Uniform()))
    data = sets[0].spec
    return SimpleNamespace(denoiser=oracle, model=model, facts=facts, data=data, device=torch.device("cpu"))


def test_a_denoiser_that_knows_the_training_pictures_by_heart_is_found_out() -> None:
    training, held_out = pictures(0, 40), pictures(1, 40)
    report = gap_between(knowing(training), training, held_out)
    assert report is not None
    assert report.beyond_noise
    assert len(report.levels) == LEVELS
    least = report.levels[0]
    assert least.log_snr > report.levels[-1].log_snr
    # At little noise the nearest member is the picture itself, or one that has nothing to do with it.
    assert least.training < 1e-3 < least.held_out


def test_a_denoiser_that_knows_both_alike_has_no_gap() -> None:
    training, held_out = pictures(0, 40), pictures(1, 40)
    report = gap_between(knowing(training, held_out), training, held_out)
    assert report is not None
    assert not report.beyond_noise
    again = gap_between(knowing(training, held_out), training, held_out, batch=7)
    assert again is not None
    assert again.excess == pytest.approx(report.excess, abs=1e-4)


def test_nothing_held_out_is_no_report() -> None:
    training = pictures(0, 40)
    assert gap_between(knowing(training), training, pictures(1, 1)) is None
