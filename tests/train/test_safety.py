"""What is not finite is never kept: skipped, named, rolled back; and a full disk costs no checkpoint."""

import errno
import json
from pathlib import Path

import pytest
import torch
from small_runs import settings, start
from torch import Tensor

from kakusan import model_folder
from kakusan.cli import main
from kakusan.objectives import LossTerms
from kakusan.run_folder import RunFolder, read_state
from kakusan.train.feed import Batch
from kakusan.train.metrics_log import read_records
from kakusan.train.run import TrainingRun
from kakusan.train.trainer import PATIENCE, Group, TrainingDiverged, TrainStep


def wrap_loss(run: TrainingRun, change) -> None:
    """Put `change(batch, terms) -> terms` around the loss."""
    group = run.trainer.groups[0]
    run.trainer.groups = (Group(group.parameters, lambda batch: change(batch, group.loss(batch)), group.settings),)


def spoil(number: int):
    """A loss that is not finite for one sample of the training, told by its number."""

    def change(batch: Batch, terms: LossTerms) -> LossTerms:
        bad = torch.where(batch.numbers == number, torch.nan, 0.0)
        return LossTerms(terms.loss + bad, terms.x0_error, terms.t)

    return change


def troubles(out: Path) -> list[str]:
    return [r["message"] for r in read_records(out / "metrics.jsonl") if r["kind"] == "trouble"]


def steps(out: Path) -> list[int]:
    return [r["step"] for r in read_records(out / "metrics.jsonl") if r["kind"] == "step"]


def everything_is_finite(out: Path) -> None:
    folder = RunFolder(out)
    for step in folder.steps():
        weights, optimizer, averages, _ = read_state(folder.checkpoint(step))
        for tensors in (weights, optimizer, *averages.values()):
            assert all(bool(value.isfinite().all()) for value in tensors.values())


def test_one_bad_sample_is_skipped_and_named(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    number = 2 * 8 + 3
    before: list[dict[str, Tensor]] = []

    def prepare(run: TrainingRun) -> None:
        wrap_loss(run, spoil(number))
        index = int(run.trainer.feed.batch(number, 1).indices[0])
        before.append({"name": run.training.name(index)})  # type: ignore[dict-item]

    run = start(settings(pictures), out, prepare=prepare)
    assert steps(out) == [1, 2, 4, 5, 6]
    (message,) = troubles(out)
    assert message.startswith("step 2: the loss is not finite")
    assert f"samples: {before[0]['name']};" in message
    level = float(message.split("log-SNR: ")[1].split(";")[0])
    t = run.objective.time_sampler.draw(run.model.denoiser.schedule, 0, torch.tensor([number]))
    assert level == pytest.approx(float(run.model.denoiser.schedule.log_snr(t)[0]), abs=0.01)
    assert "the loss itself" in message
    everything_is_finite(out)


def test_a_skipped_step_changes_nothing(pictures: Path, tmp_path: Path) -> None:
    run = TrainingRun(settings(pictures), tmp_path / "run", say=lambda line: None)
    wrap_loss(run, spoil(8 + 1))
    seen = run.trainer.run()
    next(seen)
    weights = {n: v.clone() for n, v in run.model.state_dict().items()}
    average = {n: v.clone() for n, v in run.average.items()}
    step = next(seen)
    assert step.trouble is not None
    assert not step.rolled_back
    assert step.step == 2
    assert all(torch.equal(v, weights[n]) for n, v in run.model.state_dict().items())
    assert all(torch.equal(v, average[n]) for n, v in run.average.items())
    seen.close()


def test_lasting_trouble_rolls_back_at_half_the_rate_and_goes_on(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    seen: list[TrainStep] = []
    said: list[str] = []

    def prepare(run: TrainingRun) -> None:
        def change(batch: Batch, terms: LossTerms) -> LossTerms:
            # As long as the rate is what it was, nothing past the third step works.
            bad = int(batch.numbers[0]) >= 3 * 8 and run.trainer.rate_scale == 1.0
            return LossTerms(terms.loss * (torch.inf if bad else 1.0), terms.x0_error, terms.t)

        wrap_loss(run, change)
        inner = run.on_step
        run.on_step = lambda step, run: (seen.append(step), inner(step, run) if inner else None)

    config = settings(pictures, optim={"warmup": 0, "decay": 0.0}, run={"steps": 8, "checkpoints": 4})
    start(config, out, prepare=prepare, say=said.append, report=True)
    assert "<h2>Trouble</h2>" in (out / "report.html").read_text()
    rolled = [step for step in seen if step.rolled_back]
    assert len(rolled) == 1
    # The checkpoint of step 2 is the last good state.
    assert rolled[0].step == 2
    assert sum(step.trouble is not None for step in seen) == PATIENCE
    assert [step.rate for step in seen if step.trouble is None][-1] == pytest.approx(0.5 * 3e-3)
    assert steps(out) == list(range(1, 9))
    assert any("went back to step 2, at 0.5 of the rate" in line for line in said)
    everything_is_finite(out)


def test_a_roll_back_is_the_same_after_a_resume(pictures: Path, tmp_path: Path) -> None:
    config = settings(pictures, run={"steps": 8, "checkpoints": 2})

    def prepare(run: TrainingRun) -> None:
        def change(batch: Batch, terms: LossTerms) -> LossTerms:
            bad = int(batch.numbers[0]) >= 5 * 8 and run.trainer.rate_scale == 1.0
            return LossTerms(terms.loss * (torch.inf if bad else 1.0), terms.x0_error, terms.t)

        wrap_loss(run, change)

    start(config, tmp_path / "whole", prepare=prepare)
    start(config, tmp_path / "halves", prepare=prepare, stop_at=4)
    start(config, tmp_path / "halves", prepare=prepare)
    curves = [
        [(r["step"], r["loss"]) for r in read_records(tmp_path / name / "metrics.jsonl") if r["kind"] == "step"]
        for name in ("whole", "halves")
    ]
    assert curves[0] == curves[1]


def test_a_huge_rate_ends_with_a_reason_and_saves_nothing_that_is_not_finite(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = settings(pictures, optim={"rate": 1e30, "warmup": 0}, run={"steps": 200, "checkpoints": 50})
    with pytest.raises(TrainingDiverged, match=r"each at half the rate, did not help.*Lower the learning rate"):
        start(config, out)
    everything_is_finite(out)
    assert troubles(out)


def test_a_poisoned_weight_is_found(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    poisoned = "denoiser.backbone.middle.0.block.conv1.weight"

    def prepare(run: TrainingRun) -> None:
        def change(batch: Batch, terms: LossTerms) -> LossTerms:
            if int(batch.numbers[0]) == 8 and run.trainer.rate_scale == 1.0:
                dict(run.model.named_parameters())[poisoned].data[0, 0, 0, 0] = torch.nan
            return terms

        wrap_loss(run, change)

    run = start(settings(pictures), out, prepare=prepare)
    assert run.trainer.rollbacks == 1
    assert steps(out) == [1, 2, 3, 4, 5, 6]
    assert all("middle.0.block.conv1" in message for message in troubles(out))
    everything_is_finite(out)


def test_a_gradient_that_is_not_finite_names_its_sample(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    names: list[str] = []

    def prepare(run: TrainingRun) -> None:
        def change(batch: Batch, terms: LossTerms) -> LossTerms:
            # The value is finite and the slope is not: sqrt at zero.
            loss = terms.loss.clone()
            for i in (batch.numbers == 8 + 5).nonzero().flatten().tolist():
                loss[i] = loss[i] + (loss[i] - loss[i].detach()).abs().sqrt()
            return LossTerms(loss, terms.x0_error, terms.t)

        wrap_loss(run, change)
        names.append(run.training.name(int(run.trainer.feed.batch(8 + 5, 1).indices[0])))

    start(settings(pictures), out, prepare=prepare)
    (message,) = troubles(out)
    assert "the gradient is not finite" in message
    assert f"samples: {names[0]};" in message
    assert "behind denoiser.backbone" in message


def test_a_state_that_is_not_finite_is_never_saved(pictures: Path, tmp_path: Path) -> None:
    run = start(settings(pictures), tmp_path / "run")
    next(iter(run.model.parameters())).data.fill_(torch.inf)
    with pytest.raises(ValueError, match="not finite; this state is not saved"):
        RunFolder(tmp_path / "run").save(7, run.model, run.facts(), run.trainer.ema.averages, {}, {})
    assert not list((tmp_path / "run" / "checkpoints").glob(".part*"))
    assert RunFolder(tmp_path / "run").latest() == RunFolder(tmp_path / "run").checkpoint(6)


@pytest.mark.parametrize("place", ["weights", "optimizer", "latest"])
def test_a_full_disk_costs_no_checkpoint(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    out = tmp_path / "run"
    start(settings(pictures), out, stop_at=3)

    def write_text(path: Path, text: str) -> None:
        if path.name == "latest":
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_text(text)

    if place == "latest":
        monkeypatch.setattr("kakusan.run_folder.write_text", write_text)
    else:
        from safetensors import SafetensorError
        from safetensors import torch as safetensors_torch

        whole = safetensors_torch.save_file

        def save_file(tensors: dict[str, Tensor], path: str) -> None:
            if place in path:
                raise SafetensorError("I/O error: No space left on device (os error 28)")
            whole(tensors, path)

        monkeypatch.setattr(safetensors_torch, "save_file", save_file)
    with pytest.raises(ValueError, match=r"checkpoint of step 6 could not be written.*No space left.*free some space"):
        start(settings(pictures), out)
    monkeypatch.undo()
    folder = RunFolder(out)
    assert folder.latest() == folder.checkpoint(3)
    assert not list(folder.checkpoints.glob(".part*"))
    start(settings(pictures), out)
    assert folder.latest() == folder.checkpoint(6)


def test_a_disk_that_is_really_full_is_said_in_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    out = tmp_path / "run"
    start(settings(pictures), out, stop_at=1)
    # The kernel refuses to let any file grow past 60 kB: the weights do not fit.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        code = main(["train", "--out", str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    said = capsys.readouterr().err
    assert "could not be written" in said
    assert "Traceback" not in said
    folder = RunFolder(out)
    assert folder.latest() == folder.checkpoint(1)
    model_folder.read(folder.checkpoint(1))
    assert json.loads((folder.checkpoint(1) / "state.json").read_text())["trainer"]["step"] == 1
