"""The learning rate over a run, and gradients that do not depend on how a batch is cut."""

from pathlib import Path

import pytest
import torch
from small_runs import settings
from torch import nn

from kakusan.train.optim import OptimSettings
from kakusan.train.run import TrainingRun


def test_the_rate_warms_up_stays_flat_and_falls_to_zero() -> None:
    optim = OptimSettings(rate=2.0, warmup=9, decay=0.25)
    rates = [optim.rate_at(step, 100) for step in range(101)]
    assert rates[:9] == pytest.approx([2.0 * (i + 1) / 10 for i in range(9)])
    assert rates[9:75] == pytest.approx([2.0] * 66)
    assert rates[75:] == pytest.approx([2.0 * (100 - i) / 25 for i in range(75, 101)])
    assert rates[100] == 0.0
    assert rates[99] > 0.0


def test_other_decays_fall_as_they_say() -> None:
    def rates(kind: str, decay: float = 0.75) -> list[float]:
        optim = OptimSettings(rate=2.0, warmup=0, decay=decay, rate_decay=kind)
        return [optim.rate_at(step, 100) for step in range(101)]

    for kind in ("cosine", "inverse-sqrt"):
        assert rates(kind)[:26] == pytest.approx([2.0] * 26)
        assert rates(kind, 0.0)[:100] == [2.0] * 100
    assert rates("inverse-sqrt")[26:] == pytest.approx([2.0 * (25 / step) ** 0.5 for step in range(26, 101)])
    cosine = rates("cosine")
    assert cosine[100] == pytest.approx(0.0, abs=1e-12)
    assert cosine[62] + cosine[63] == pytest.approx(2.0)
    # A decay over the whole run has a flat hundredth, in place of an infinite rate at the start.
    whole = rates("inverse-sqrt", 1.0)
    assert whole[0] == 2.0
    assert whole[4:] == pytest.approx([2.0 * (1 / step) ** 0.5 for step in range(4, 101)])
    with pytest.raises(ValueError, match=r"no decay of the rate 'cosin' \(did you mean 'cosine'\?\)"):
        OptimSettings(rate_decay="cosin")


def test_without_decay_and_warm_up_the_rate_is_constant() -> None:
    assert {OptimSettings(rate=0.5, warmup=0, decay=0.0).rate_at(step, 7) for step in range(7)} == {0.5}


@pytest.mark.parametrize("bad", [{"rate": 0.0}, {"rate": -1.0}, {"warmup": -1}, {"decay": 1.5}, {"clip": -1.0}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected rate > 0"):
        OptimSettings(**bad)  # type: ignore[arg-type]


def test_only_matrices_decay() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2))
    (optimizer,) = OptimSettings(weight_decay=0.1).build(module.parameters())
    by_decay = {group["weight_decay"]: {p.dim() for p in group["params"]} for group in optimizer.param_groups}
    assert by_decay == {0.1: {4}, 0.0: {1}}


@pytest.mark.parametrize("coupling", ["independent", "transport"])
@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_gradients_of_parts_are_those_of_the_whole_batch(
    pictures: Path, tmp_path: Path, at_once: int, coupling: str
) -> None:
    if coupling == "transport":
        pytest.importorskip("scipy")
    gradients = []
    for micro_batch in (8, at_once):
        config = settings(pictures, engine={"micro_batch": micro_batch}, objective={"coupling": coupling})
        run = TrainingRun(config, tmp_path, say=lambda line: None)
        taken = next(run.trainer.run())
        gradients.append((taken, {n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None}))
    (one, whole), (many, cut) = gradients
    assert many.losses[0] == pytest.approx(one.losses[0], rel=1e-5)
    assert many.gradient_norms[0] == pytest.approx(one.gradient_norms[0], rel=1e-4)
    scale = max(float(g.abs().max()) for g in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-3, atol=2e-5 * scale)


def test_clipping_bounds_the_step(pictures: Path, tmp_path: Path) -> None:
    run = TrainingRun(settings(pictures, optim={"clip": 1e-3}), tmp_path, say=lambda line: None)
    taken = next(run.trainer.run())
    norm = torch.stack([p.grad.square().sum() for p in run.model.parameters() if p.grad is not None]).sum().sqrt()
    assert taken.gradient_norms[0] > 1e-3
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
