"""Loss on fixed pairs: the same every time, and equal to the floor for a network that knows nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import settings
from torch import Tensor, nn

from kakusan.choices import SCHEDULES, TIMES
from kakusan.conditioning import Condition
from kakusan.data.source import ArrayPictures, open_data
from kakusan.data.spec import DataSpec
from kakusan.denoiser import Denoiser
from kakusan.model_folder import Model
from kakusan.objectives import Objective, SimpleV
from kakusan.parameterizations import Edm
from kakusan.time_samplers import Stratified
from kakusan.train.held_out import LEVELS, FixedPairs, view
from kakusan.train.run import TrainingRun


class Nothing(nn.Module):
    """Says zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None) -> Tensor:
        return torch.zeros_like(x) * self.weight


def noise_pictures(count: int = 64) -> ArrayPictures:
    """Pictures of white noise around the middle: the best guess knows mean and variance, and there is nothing more."""
    stored = np.random.default_rng(0).integers(64, 192, (count, 1, 16, 16)).astype(np.uint8)
    return ArrayPictures(DataSpec.measure(stored), stored)


@pytest.mark.parametrize("schedule", ["cosine", "rectified", "karras", "linear"])
@pytest.mark.parametrize("times", ["uniform", "logit-normal", "log-normal-sigma"])
def test_a_network_that_knows_nothing_stands_on_the_floor(schedule: str, times: str) -> None:
    pictures = noise_pictures()
    sigma_data = pictures.spec.sigma_data
    model = Model(Denoiser(Nothing(), SCHEDULES[schedule], Edm(sigma_data), sigma_data=sigma_data))
    report = FixedPairs(pictures, Objective(Stratified(TIMES[times]), SimpleV()), seed=0).measure(model)
    assert len(report.floor) == len(report.x0_error) == len(report.log_snr) == LEVELS
    # Least noise first.
    assert list(report.log_snr) == sorted(report.log_snr, reverse=True)
    assert report.x0_error == pytest.approx(report.floor, rel=0.05)


def test_measuring_twice_gives_the_same_and_changes_nothing(pictures: Path, tmp_path: Path) -> None:
    run = TrainingRun(settings(pictures), tmp_path, say=lambda line: None)
    pairs = FixedPairs(run.training, run.objective, seed=0, count=64)
    before = {n: v.clone() for n, v in run.model.state_dict().items()}
    run.model.train()
    first, averaged = pairs.measure(run.model), pairs.measure(run.model, run.average)
    assert run.model.training
    assert first == pairs.measure(run.model) == averaged
    assert all(torch.equal(v, before[n]) for n, v in run.model.state_dict().items())
    assert FixedPairs(run.training, run.objective, seed=1, count=64).measure(run.model) != first


def test_the_batch_size_of_measuring_does_not_matter(pictures: Path, tmp_path: Path) -> None:
    run = TrainingRun(settings(pictures), tmp_path, say=lambda line: None)
    reports = [FixedPairs(run.training, run.objective, seed=0, count=48, batch=b).measure(run.model) for b in (48, 7)]
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=1e-5)
    assert reports[0].x0_error == pytest.approx(reports[1].x0_error, rel=1e-4)


def test_other_weights_are_seen_and_put_back(pictures: Path, tmp_path: Path) -> None:
    run = TrainingRun(settings(pictures), tmp_path, say=lambda line: None)
    other = {n: torch.full_like(v, 0.01) for n, v in run.average.items()}
    before = {n: p.data_ptr() for n, p in run.model.named_parameters()}
    with pytest.raises(ZeroDivisionError), view(run.model, other):
        assert all(bool((p == 0.01).all()) for p in run.model.parameters())
        raise ZeroDivisionError
    assert {n: p.data_ptr() for n, p in run.model.named_parameters()} == before


@pytest.mark.parametrize("count", [1, 2, 3, 7, 24])
def test_every_picture_takes_part(count: int) -> None:
    seen: list[int] = []
    pictures = noise_pictures(count)

    class Watched(ArrayPictures):
        def read(self, indices):
            seen.extend(int(i) for i in indices)
            return super().read(indices)

    watched = Watched(pictures.spec, pictures.read(range(count)))
    model = Model(Denoiser(Nothing(), SCHEDULES["cosine"], Edm(0.5)))
    FixedPairs(watched, Objective(), seed=0, count=24).measure(model)
    assert set(seen) == set(range(count))


def test_an_empty_set_is_refused(pictures: Path) -> None:
    from kakusan.data.source import subset

    with pytest.raises(ValueError, match="no pictures to measure on"):
        FixedPairs(subset(open_data(pictures), []), Objective(), seed=0)
