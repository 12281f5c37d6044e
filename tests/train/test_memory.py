"""Memory that runs out costs nothing but time: the same step, cut smaller, and the same weights in the end."""

import json
from pathlib import Path

import pytest
import torch
from small_runs import settings, start
from torch import nn

from kakusan import building
from kakusan.run_folder import RunFolder, read_state
from kakusan.train.memory import NotEnoughMemory, Portions, out_of_memory
from kakusan.train.metrics_log import read_records
from kakusan.train.run import TrainingRun

CPU = torch.device("cpu")
ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


def limit(monkeypatch: pytest.MonkeyPatch, most: int, *, after: int = 0, only: bool | None = None) -> list[int]:
    """Let the network run out of memory above `most` samples, from its pass number `after` on; returns its passes.

    `only` limits the fault to passes with gradients (True) or without (False).
    """
    passes: list[int] = []
    build = building.build_model

    def check(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        count = len(arguments[0])
        passes.append(count)
        if count > most and len(passes) > after and only in (None, torch.is_grad_enabled()):
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to compute {count} samples.\nmore")

    def limited(*arguments: object, **options: object) -> object:
        model = build(*arguments, **options)  # type: ignore[arg-type]
        model.denoiser.backbone.register_forward_pre_hook(check)
        return model

    monkeypatch.setattr(building, "build_model", limited)
    return passes


def tensors(out: Path) -> dict[str, torch.Tensor]:
    folder = RunFolder(out)
    weights, optimizer, averages, _ = read_state(folder.latest() or out)
    return {**weights, **optimizer, **{f"{p}/{n}": v for p, part in averages.items() for n, v in part.items()}}


def same(one: Path, other: Path) -> None:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def memory(out: Path) -> list[dict]:
    return [r for r in read_records(out / "metrics.jsonl") if r["kind"] == "memory"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError(ALLOCATOR), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 3 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: BaseException, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_the_allocator_of_this_machine_is_understood() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(("most", "tried"), [(8, [8]), (5, [8, 4]), (3, [8, 4, 2]), (1, [8, 4, 2, 1])])
def test_portions_are_halved_until_they_fit_and_stay_small(most: int, tried: list[int]) -> None:
    sizes: list[int] = []

    def attempt(size: int) -> int:
        sizes.append(size)
        if size > most:
            raise RuntimeError(ALLOCATOR)
        return size

    portions = Portions(device=CPU)
    assert portions.run(8, attempt) == tried[-1]
    assert sizes == tried
    assert portions.run(8, attempt) == tried[-1]
    assert sizes == [*tried, tried[-1]]


def test_a_single_sample_that_does_not_fit_is_an_error_and_others_pass_through() -> None:
    def full(size: int) -> None:
        raise MemoryError

    def wrong(size: int) -> None:
        raise RuntimeError("shapes")

    with pytest.raises(NotEnoughMemory, match="for training with a single sample at once; use --checkpointing"):
        Portions(device=CPU).run(4, full)
    with pytest.raises(RuntimeError, match="shapes"):
        Portions(device=CPU).run(4, wrong)


def test_a_run_that_runs_out_of_memory_is_the_run_that_began_with_less(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dropout makes the network draw random numbers, which a repeated step must draw again.
    model = {"dropout": 0.2}
    start(settings(pictures, model=model, engine={"micro_batch": 2}), tmp_path / "small")
    with monkeypatch.context() as patch:
        limit(patch, 3)
        said: list[str] = []
        start(settings(pictures, model=model), tmp_path / "halved", say=said.append)
    same(tmp_path / "small", tmp_path / "halved")
    (record,) = memory(tmp_path / "halved")
    assert record == {"kind": "memory", "step": 0, "what": "training", "at_once": 2}
    assert "out of memory while training: from here on 2 at once; nothing is lost" in said
    steps = [r for r in read_records(tmp_path / "halved" / "metrics.jsonl") if r["kind"] == "step"]
    assert [r["step"] for r in steps] == [1, 2, 3, 4, 5, 6]


def test_memory_that_runs_out_in_the_middle_is_remembered(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(pictures)
    start(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        # Three passes before the first step, to see how long it takes, and two steps.
        passes = limit(patch, 4, after=5)
        start(config, tmp_path / "run", stop_at=4)
    assert passes == [8, 8, 8, 8, 8, 8, 4, 4, 4, 4]
    assert [r["step"] for r in memory(tmp_path / "run")] == [3]
    state = json.loads((RunFolder(tmp_path / "run").checkpoint(4) / "state.json").read_text())
    assert state["micro_batch"] == 4
    with monkeypatch.context() as patch:
        passes = limit(patch, 4)
        run = start(config, tmp_path / "run")
    # No attempt with all eight.
    assert passes == [4] * 4
    assert run.trainer.portions.most == 4
    a, b = tensors(tmp_path / "whole"), tensors(tmp_path / "run")
    weight = "denoiser.backbone.stem.weight"
    torch.testing.assert_close(a[weight], b[weight], rtol=1e-3, atol=1e-5)
    # Who asks for another size gets it.
    asked = settings(pictures, engine={"micro_batch": 6}, run={"steps": 7})
    assert TrainingRun(asked, tmp_path / "run", say=lambda line: None).trainer.portions.most == 6


def test_when_nothing_fits_all_is_saved_first(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with monkeypatch.context() as patch:
        limit(patch, 0, after=5)
        with pytest.raises(ValueError, match="not enough memory for training with a single sample"):
            start(settings(pictures), tmp_path / "run", say=said.append)
    assert RunFolder(tmp_path / "run").latest() == RunFolder(tmp_path / "run").checkpoint(2)
    assert "step 2 was saved; the same command goes on from there" in said
    start(settings(pictures), tmp_path / "run")
    start(settings(pictures), tmp_path / "whole")
    # What was learnt about memory is in the state, so the rest ran sample by sample.
    a, b = tensors(tmp_path / "whole"), tensors(tmp_path / "run")
    weight = "denoiser.backbone.stem.weight"
    torch.testing.assert_close(a[weight], b[weight], rtol=1e-3, atol=1e-5)


def test_measuring_and_previews_are_cut_too(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(pictures, run={"steps": 2, "measurements": 1, "previews": 1})
    start(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        limit(patch, 6, only=False)
        start(config, tmp_path / "cut")
    assert [(r["what"], r["at_once"]) for r in memory(tmp_path / "cut")] == [("drawing previews", 4), ("measuring", 4)]
    found = []
    for out in (tmp_path / "whole", tmp_path / "cut"):
        records = [r for r in read_records(out / "metrics.jsonl") if r["kind"] == "training"]
        found.append([r["loss"] for r in records])
        assert len(list((out / "samples").iterdir())) == 2
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    same(tmp_path / "whole", tmp_path / "cut")


def test_a_step_taken_to_see_how_long_it_takes_changes_nothing(pictures: Path, tmp_path: Path) -> None:
    run = TrainingRun(settings(pictures, optim={"optimizer": "muon"}), tmp_path / "run", say=lambda line: None)
    trainer = run.trainer
    next(trainer.run())
    before = {n: v.clone() for n, v in run.model.state_dict().items()}
    state, numbers = trainer.state()
    state = {n: v.clone() for n, v in state.items()}
    with trainer.undone():
        trainer.take(trainer.feed.batch(trainer.samples))
        assert trainer.step == 2
        assert any(not torch.equal(v, before[n]) for n, v in run.model.state_dict().items())
    assert all(torch.equal(v, before[n]) for n, v in run.model.state_dict().items())
    after, numbers_after = trainer.state()
    assert numbers_after == numbers
    assert after.keys() == state.keys()
    assert all(torch.equal(after[n], state[n]) for n in state)
