"""`kakusan reflow` from end to end on a small class-conditional run: pairs, resume, training, refusals."""

import dataclasses
import json

import pytest
import torch
from small_runs import settings, start

from kakusan.cli import main
from kakusan.couplings import Reflowed
from kakusan.distill import PairFolder
from kakusan.pipeline import load
from kakusan.samplers import DDIM, sample_iter
from kakusan.tasks.reflow import reflow

PAIRS = 300


@pytest.fixture(scope="module")
def reflowed(tmp_path_factory, trained):
    """(folder of the new run, what was said), after a stop in the middle of the pairs."""
    out = tmp_path_factory.mktemp("reflow") / "run"

    def stop(done, wanted):
        if done < wanted:
            raise KeyboardInterrupt

    options = {
        "pairs": PAIRS,
        "num_steps": 3,
        "sampler": "dpmpp-2m",
        "length": {"steps": 4},
        "seed": 9000,
        "device": "cpu",
    }
    with pytest.raises(KeyboardInterrupt):
        reflow(trained, out, on_pairs=stop, say=lambda line: None, **options)
    drawn, said = [], []
    reflow(trained, out, on_pairs=lambda done, wanted: drawn.append((done, wanted)), say=said.append, **options)
    return out, drawn, said


def test_a_stop_costs_only_the_part_that_was_being_drawn(reflowed):
    assert reflowed[1] == [(PAIRS, PAIRS)]


def test_pairs_come_again_from_their_seeds(reflowed, trained):
    """The first part bit for bit; its noise is what the sampler starts from."""
    pairs, source = PairFolder(reflowed[0] / "pairs").open(), load(trained)
    assert len(pairs) == PAIRS
    assert pairs.labels.tolist() == [i % 2 for i in range(PAIRS)]
    request = source.request(
        labels=[i % 2 for i in range(64)], seeds=range(9000, 9064), sampler="dpmpp-2m", num_steps=3, batch=64
    )
    assert torch.equal(source.data.to_stored(source.run(request)), pairs.read(range(64)))
    first = next(source.steps(request)).x_t
    assert torch.equal(pairs.coupling.start(first, torch.arange(64)), first)


def test_the_new_model_knows_that_it_was_coupled(reflowed, trained):
    old, new = load(trained), load(reflowed[0])
    assert old.denoiser.independent_noise
    assert not new.denoiser.independent_noise
    assert isinstance(new.facts.objective.coupling, Reflowed)
    assert new.classes == old.classes
    assert dataclasses.replace(new.data, flip=old.data.flip) == old.data
    with pytest.raises(ValueError, match="coupled"):
        new.sample(labels=[0], sampler="ddpm", num_steps=2)
    assert len(new.sample(labels=[0, 1], sampler=DDIM(), num_steps=2)) == 2


def test_it_starts_from_the_old_weights_and_says_how_straight_it_became(reflowed):
    out, _, said = reflowed
    assert any("tensors kept, 0 resized, 0 new, 0 left" in line for line in said)
    found = json.loads((out / "straightness.json").read_text())
    assert found["before"]["n"] == found["after"]["n"] > 1
    assert any(line.startswith("straightness") for line in said)


def test_training_goes_on_with_the_pairs_coupling(reflowed, trained, tmp_path, capsys):
    """Also by the plain verb, which must not fall back to independent noise."""
    out = reflowed[0]
    assert main(["train", "--out", str(out), "--steps", "6"]) == 0
    capsys.readouterr()
    new = load(out)
    assert new.facts.training["steps"] == 6
    assert isinstance(new.facts.objective.coupling, Reflowed)


def test_other_pairs_other_runs_and_stochastic_samplers_are_refused(reflowed, trained, tmp_path, capsys):
    out = str(reflowed[0])
    assert main(["reflow", str(trained), "--out", out, "--pairs", "301", "--sampler-steps", "3"]) == 1
    assert "pairs drawn otherwise" in capsys.readouterr().err
    assert main(["reflow", str(trained), "--out", str(tmp_path / "new"), "--sampler", "ddpm"]) == 1
    assert "fresh noise" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main(["reflow", str(trained), "--out", str(trained), "--pairs", "4"]) == 1
    assert "not on pairs" in capsys.readouterr().err
    assert main(["reflow"]) == 1
    assert "name the run" in capsys.readouterr().err


def test_transport_is_a_setting_of_training(pictures, tmp_path):
    """`coupling = transport` trains a model that remembers it."""
    start(settings(pictures, objective={"coupling": "transport"}), tmp_path / "run")
    new = load(tmp_path / "run")
    assert not new.denoiser.independent_noise
    with pytest.raises(ValueError, match="coupled"):
        list(sample_iter(new.denoiser, DDIM(eta=1.0), torch.tensor([0.5, 0.2]), (1, *new.data.shape)))
