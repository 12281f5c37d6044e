"""Training a rival: deterministic by steps, on time by seconds, honest about divergence."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kakusan.data.source import ArrayPictures, subset
from kakusan.rivals import load
from kakusan.rivals.training import RivalFacts, RivalRun, averaged, train_rival
from kakusan.train.metrics_log import read_records
from kakusan.train.optim import OptimSettings

SMALL = {
    "vae": {"width": 8, "multipliers": (1, 2), "latents": (4, 2, 0), "patch": 1, "draws": 2},
    "flow": {"levels": 2, "depth": 1, "widths": (8, 8)},
    "toy": {},
}


def quiet(_: str) -> None:
    pass


def train(pictures: ArrayPictures, out: Path, kind: str = "toy", **options) -> RivalFacts:
    parts = subset(pictures, range(30)), subset(pictures, range(30, 40))
    given = {"steps": 6, "batch": 8, "seed": 3, "threads": 1, "device": "cpu", "options": SMALL[kind], "say": quiet}
    return train_rival(kind, *parts, out, **{**given, **options})


@pytest.mark.parametrize("kind", ["vae", "flow"])
def test_the_same_steps_give_the_same_model_and_the_folder_gives_it_back(
    kind: str, pictures: ArrayPictures, tmp_path: Path
) -> None:
    if kind == "flow":
        pytest.importorskip("normflows")
    facts = [train(pictures, tmp_path / name, kind, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    found = [load(each.path) for each in facts]
    samples = [each.sample_tensor(num=3, seed=11) for each in found]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert facts[0].losses == facts[1].losses
    assert (facts[0].steps, facts[0].samples, facts[0].diverged) == (6, 48, False)
    assert facts[0].flops_per_sample > facts[0].flops_to_sample > 0
    assert facts[0].held_out_count == 10
    assert facts[0].held_out_bits is not None
    bits = found[0].log_likelihood(pictures.read(range(30, 40)), pictures.labels[30:], seeds=range(10))
    assert float(bits.mean()) == pytest.approx(facts[0].held_out_bits, rel=1e-5)
    assert found[0].training["held_out_bits"] == facts[0].held_out_bits
    json.dumps(facts[0].record())


@pytest.mark.parametrize("kind", ["vae", "flow"])
def test_training_learns(kind: str, pictures: ArrayPictures, tmp_path: Path) -> None:
    if kind == "flow":
        pytest.importorskip("normflows")
    settings = OptimSettings(optimizer="muon", rate=3e-3, warmup=5)
    short, long = (train(pictures, tmp_path / str(n), kind, steps=n, settings=settings) for n in (1, 30))
    assert long.held_out_bits < short.held_out_bits - 0.3


@pytest.mark.usefixtures("toy")
def test_every_step_is_logged_with_the_loss_of_every_group(pictures: ArrayPictures, tmp_path: Path) -> None:
    facts = train(pictures, tmp_path / "run", steps=9, measurements=2)
    records = read_records(facts.path / "metrics.jsonl")
    steps = [record for record in records if record["kind"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 10))
    assert all(len(record["losses"]) == 2 for record in steps)
    held_out = [record["step"] for record in records if record["kind"] == "held-out"]
    assert held_out == [3, 6, 9]
    assert facts.losses == tuple(steps[-1]["losses"])


class Clock:
    """Time that goes by a fixed amount whenever it is looked at; looking is all that a step does with it."""

    def __init__(self, pace: Callable[[int], float]) -> None:
        self.looks, self.now, self.pace = 0, 100.0, pace

    def __call__(self) -> float:
        self.looks += 1
        self.now += self.pace(self.looks)
        return self.now


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    "pace",
    [
        lambda looks: 0.01,
        lambda looks: 0.03 if looks > 400 else 0.01,
        lambda looks: 0.004 if looks > 400 else 0.01,
        lambda looks: 0.01 * (1.0 + math.sin(looks / 97.0) ** 2),
    ],
    ids=["even", "slower", "faster", "uneven"],
)
def test_a_budget_of_seconds_is_kept(
    pace: Callable[[int], float], pictures: ArrayPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the training alone: whoever else looked at this clock would move it.
    monkeypatch.setattr("kakusan.rivals.training.time", SimpleNamespace(perf_counter=Clock(pace)))
    facts = train(pictures, tmp_path / "run", steps=None, seconds=12.0)
    assert facts.seconds == pytest.approx(12.0, rel=0.05)
    # The rate has fallen to its end: the plan knew where that is.
    rates = [r["rate"] for r in read_records(facts.path / "metrics.jsonl") if r["kind"] == "step"]
    assert rates[-1] < 0.05 * max(rates)


@pytest.mark.usefixtures("toy")
def test_divergence_is_a_fact_and_the_last_good_state_is_saved(pictures: ArrayPictures, tmp_path: Path) -> None:
    facts = train(pictures, tmp_path / "run", steps=200, options={"bad_after": 40})
    assert facts.diverged
    assert "diverged" in facts.message
    assert facts.troubles > 8
    assert facts.saved
    assert bool(load(facts.path).sample_tensor(num=2).isfinite().all())
    assert load(facts.path).training["diverged"] is True


@pytest.mark.usefixtures("toy")
def test_a_run_that_is_asked_to_stop_saves(pictures: ArrayPictures, tmp_path: Path) -> None:
    run = _run(pictures, tmp_path / "run", steps=1000)
    kept = run._after

    def after(step) -> None:
        kept(step)
        if step.step == 4:
            run.stop = "SIGINT"

    run._after = after
    facts = run.run()
    assert facts.steps == 4
    assert facts.message == "stopped by SIGINT"
    assert load(facts.path).training["steps"] == 4


def _run(pictures: ArrayPictures, out: Path, **options) -> RivalRun:
    given = {
        "seconds": None,
        "steps": 3,
        "batch": 8,
        "seed": 0,
        "device": "cpu",
        "threads": 1,
        "settings": None,
        "options": None,
        "measurements": 0,
        "say": quiet,
    }
    return RivalRun("toy", pictures, subset(pictures, []), out, **{**given, **options})


@pytest.mark.usefixtures("toy")
def test_averaged_weights_are_lent_and_given_back(pictures: ArrayPictures, tmp_path: Path) -> None:
    run = _run(pictures, tmp_path / "run")
    for _ in run.trainer.run():
        pass
    before = {name: value.clone() for name, value in run.rival.state_dict().items()}
    with averaged(run.trainer):
        inside = dict(run.rival.state_dict())
        assert not run.rival.training
        assert torch.equal(inside["mean"], run.trainer.ema.averages["ema-0.1"]["mean"])
        assert not torch.equal(inside["mean"], before["mean"])
    assert all(torch.equal(value, before[name]) for name, value in run.rival.state_dict().items())


@pytest.mark.usefixtures("toy")
def test_nothing_held_out_is_no_likelihood(pictures: ArrayPictures, tmp_path: Path) -> None:
    facts = _run(pictures, tmp_path / "run").run()
    assert (facts.held_out_bits, facts.held_out_count) == (None, 0)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": None}, "one of the two"),
        ({"seconds": 1.0}, "one of the two"),
        ({"steps": None, "seconds": -1.0}, "seconds above 0"),
        ({"batch": 0}, "batch is at least 1"),
        ({"device": "abacus"}, "no device 'abacus'"),
    ],
)
def test_a_budget_that_cannot_be_used_is_refused(
    options: dict, said: str, pictures: ArrayPictures, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        train(pictures, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("toy")
def test_nothing_is_overwritten(pictures: ArrayPictures, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="not empty"):
        train(pictures, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_facts_are_plain() -> None:
    plain = {f.name: 0 for f in dataclasses.fields(RivalFacts) if f.default is dataclasses.MISSING}
    record = RivalFacts(**{**plain, "path": Path("x"), "kind": "vae"}).record()
    assert json.loads(json.dumps(record))["path"] == "x"
