"""Runs of the magnitude-preserving U-Net: resumed bit for bit, under every optimizer, averaged, saved and sampled."""

from pathlib import Path

import pytest
import torch
from small_runs import settings, start

import kakusan
from kakusan.nn import MagnitudePreservingUNet
from kakusan.nn.magnitude import Weighted
from kakusan.run_folder import RunFolder, read_state
from kakusan.train.run import TrainingRun


def config(pictures: Path, **optim: object):
    return settings(
        pictures,
        model={"backbone": "edm2", "schedule": "karras", "parameterization": "edm", "dropout": 0.1},
        objective={"times": "log-normal-sigma", "weighting": "edm"},
        optim={"rate": 1e-2, "rate_decay": "inverse-sqrt", **optim},
        run={"snapshots": 0},
    )


def rows(run: TrainingRun) -> torch.Tensor:
    weights = [m.weight.detach() for m in run.model.modules() if isinstance(m, Weighted)]
    return torch.cat([w.square().flatten(1).mean(dim=1) for w in weights])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_two_halves_are_the_whole(pictures: Path, tmp_path: Path, kind: str) -> None:
    whole = start(config(pictures, optimizer=kind), tmp_path / "whole")
    # Forced normalisation holds: one step of the optimizer is all that the rows can have moved.
    assert 1e-7 < float((rows(whole) - 1.0).abs().max()) < 0.1
    start(config(pictures, optimizer=kind), tmp_path / "halves", stop_at=3)
    start(config(pictures, optimizer=kind), tmp_path / "halves")
    states = []
    for name in ("whole", "halves"):
        latest = RunFolder(tmp_path / name).latest()
        assert latest is not None
        weights, optimizer, averages, _ = read_state(latest)
        states.append({**weights, **optimizer, **{f"{p}/{n}": v for p, a in averages.items() for n, v in a.items()}})
    assert states[0].keys() == states[1].keys()
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []


def test_a_run_sent_back_to_its_start_repeats_itself(pictures: Path, tmp_path: Path) -> None:
    # The speed of a step is measured on a fresh network in training mode, before the first checkpoint or after it.
    out = tmp_path / "run"
    first = start(config(pictures), out)
    (out / "latest").write_text("step-00000000\n")
    again = start(config(pictures), out)
    assert all(torch.equal(v, again.model.state_dict()[n]) for n, v in first.model.state_dict().items())


def test_the_averages_are_sampled(pictures: Path, tmp_path: Path) -> None:
    start(config(pictures), tmp_path / "run")
    loaded = kakusan.load(tmp_path / "run")
    assert isinstance(loaded.denoiser.backbone, MagnitudePreservingUNet)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    x0 = loaded.sample_tensor(labels=[0, 1], num_steps=3)
    assert x0.shape == (2, 3, 8, 8)
    assert bool(x0.isfinite().all())
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


def test_settings_of_other_networks_are_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="backbone = edm2 has no blocks"):
        start(settings(pictures, model={"backbone": "edm2", "blocks": "convnext"}), tmp_path / "run")
