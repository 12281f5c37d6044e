"""Levers change how a step is computed: not the curve beyond rounding, and nothing that is saved."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import settings, start
from torch import nn

from kakusan.config import EngineSettings
from kakusan.model_folder import read_facts
from kakusan.nn import DiT, UNet
from kakusan.pipeline import load
from kakusan.run_folder import RunFolder, read_state
from kakusan.train import levers
from kakusan.train.levers import DEFAULTS, Levers, choose_levers, lie_like, pull, uncompiled
from kakusan.train.metrics_log import read_records
from kakusan.train.run import TrainingRun


def losses(out: Path) -> list[float]:
    return [r["loss"] for r in read_records(out / "metrics.jsonl") if r["kind"] == "step"]


def folder(out: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    checkpoint = RunFolder(out).latest()
    assert checkpoint is not None
    weights, optimizer, _, _ = read_state(checkpoint)
    return read_facts(checkpoint), weights, optimizer


@pytest.fixture(scope="module")
def plain(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "run"
    start(settings(pictures, model={"dropout": 0.2}), out)
    return out


@pytest.fixture(scope="module")
def without_dropout(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "run"
    start(settings(pictures), out)
    return out


@pytest.mark.parametrize("lever", ["channels_last", "checkpointing"])
def test_a_lever_changes_no_curve_and_no_folder(
    plain: Path, without_dropout: Path, pictures: Path, tmp_path: Path, lever: str
) -> None:
    # What dropout leaves out is drawn in the order of memory.
    plain = without_dropout if lever == "channels_last" else plain
    config = settings(pictures, model={} if lever == "channels_last" else {"dropout": 0.2}, engine={lever: True})
    start(config, tmp_path / "whole")
    assert losses(tmp_path / "whole") == pytest.approx(losses(plain), rel=1e-4)
    facts, weights, optimizer = folder(tmp_path / "whole")
    usual, usual_weights, usual_optimizer = folder(plain)
    assert facts["denoiser"] == usual["denoiser"]
    assert {n: v.shape for n, v in weights.items()} == {n: v.shape for n, v in usual_weights.items()}
    assert {n: v.shape for n, v in optimizer.items()} == {n: v.shape for n, v in usual_optimizer.items()}
    assert all(v.is_contiguous() for v in (*weights.values(), *optimizer.values()))
    assert load(tmp_path / "whole").sample_tensor(num=2, num_steps=2).isfinite().all()
    # Two halves are the whole, bit for bit: what was loaded lies in memory as what was saved.
    start(config, tmp_path / "halves", stop_at=3)
    start(config, tmp_path / "halves")
    _, again, again_optimizer = folder(tmp_path / "halves")
    assert all(torch.equal(again[n], weights[n]) for n in weights)
    assert all(torch.equal(again_optimizer[n], optimizer[n]) for n in optimizer)


def test_a_run_goes_on_with_and_without_a_lever(without_dropout: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(settings(pictures, engine={"channels_last": True}), out, stop_at=2)
    start(settings(pictures), out, stop_at=4)
    run = start(settings(pictures, engine={"channels_last": True}), out)
    backbone = run.model.denoiser.backbone
    assert isinstance(backbone, UNet)
    assert backbone.channels_last is True
    kernels = [p for p in backbone.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in kernels)
    assert losses(out) == pytest.approx(losses(without_dropout), rel=1e-4)


@pytest.mark.parametrize("rank", [2, 3])
def test_channels_last_is_the_same_network(rank: int) -> None:
    torch.manual_seed(1)
    net = UNet(channels=4, rank=rank, width=8, multipliers=(1, 2), depth=1)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, c = torch.randn(2, 4, *[6] * rank), torch.zeros(2)
    expected = net(x, c)
    pull(net, Levers(channels_last=True))
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    assert all(p.is_contiguous(memory_format=formats[p.dim()]) for p in net.parameters() if p.dim() in formats)
    torch.testing.assert_close(net(x, c), expected, rtol=1e-4, atol=1e-5)


def test_levers_without_anything_to_act_on_are_refused() -> None:
    with pytest.raises(ValueError, match="UNet has no convolution over two or three dimensions"):
        pull(UNet(channels=1, rank=1, width=8), Levers(channels_last=True))
    with pytest.raises(ValueError, match="Linear cannot compute its activations again.*--micro-batch"):
        pull(nn.Linear(2, 2), Levers(checkpointing=True))


def test_what_is_left_open_follows_the_device() -> None:
    assert choose_levers(EngineSettings(), torch.device("cpu")) == DEFAULTS["cpu"] == Levers()
    asked = EngineSettings(compile=True, channels_last=False, checkpointing=True)
    assert choose_levers(asked, torch.device("cpu")) == Levers(True, False, True)
    assert Levers().channels_last is None
    with pytest.raises(ValueError, match="micro_batch counts the samples"):
        EngineSettings(micro_batch=0)


def test_compiling_is_the_default_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, dit, unet = torch.device("cpu"), DiT(channels=1, width=16, depth=1), UNet(channels=1, width=8)
    monkeypatch.setattr(levers.shutil, "which", lambda name: "/usr/bin/" + name)

    def compiled(settings: EngineSettings = EngineSettings(), **given: Any) -> bool:  # noqa: B008 (frozen)
        usual: dict[str, Any] = {"backbone": dit, "precision": "bf16", "minutes": 30.0}
        return choose_levers(settings, cpu, **{**usual, **given}).compile

    assert compiled()
    assert not compiled(EngineSettings(compile=False))
    monkeypatch.setattr("kakusan.nn.layout.MULTIPLIES_TILES", True)
    assert compiled(backbone=unet)
    assert not compiled(backbone=UNet(channels=1, rank=1, width=8))
    monkeypatch.setattr("kakusan.nn.layout.MULTIPLIES_TILES", False)
    assert not compiled(backbone=unet)
    assert not compiled(precision="fp32")
    assert not compiled(minutes=5.0)
    assert not compiled(minutes=None)
    assert not compiled(processes=2)
    monkeypatch.setattr(levers.shutil, "which", lambda name: None)
    assert not compiled()


def test_a_network_that_cannot_be_compiled_runs_as_written_where_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    tried = []

    def broken(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def run(*inputs: Any, **named: Any) -> Any:
            tried.append(1)
            raise TorchDynamoException("no working compiler\nand much more")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    network, x = nn.Linear(2, 2), torch.ones(1, 2)
    expected = network(x)
    pull(network, Levers(compile=True), asked=False)
    with pytest.warns(UserWarning, match="runs as written .TorchDynamoException: no working compiler.$"):
        assert torch.equal(network(x), expected)
    assert torch.equal(network(x), expected)
    assert len(tried) == 1
    pull(network, Levers(compile=True))
    with pytest.raises(TorchDynamoException):
        network(x)


def test_loaded_moments_lie_like_their_weights() -> None:
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    moment = torch.randn(4, 3, 2, 2)
    laid = lie_like(moment, weight)
    assert laid.stride() == weight.stride()
    assert torch.equal(laid, moment)
    assert torch.equal(lie_like(torch.tensor(3.0), weight), torch.tensor(3.0))


def test_only_training_passes_are_compiled(
    plain: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[int, bool]] = []
    asked: list[dict[str, Any]] = []

    def fake(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        asked.append(options)

        def run(x: torch.Tensor, *rest: Any, **named: Any) -> Any:
            compiled.append((len(x), torch.is_grad_enabled()))
            return call(x, *rest, **named)

        return run

    monkeypatch.setattr(torch, "compile", fake)
    config = settings(
        pictures, model={"dropout": 0.2}, engine={"compile": True}, run={"measurements": 2, "previews": 1}
    )
    run = start(config, tmp_path / "run")
    # Random numbers must be those of the code as written, and shapes are known.
    assert asked == [{"dynamic": False, "options": {"fallback_random": True}}]
    # Three passes before the first step, and six steps.
    assert compiled == [(8, True)] * 9
    assert losses(tmp_path / "run") == losses(plain)
    assert folder(tmp_path / "run")[1].keys() == folder(plain)[1].keys()
    with uncompiled(run.model):
        assert run.model.denoiser.backbone._compiled_call_impl is None
    assert run.model.denoiser.backbone._compiled_call_impl is not None


@pytest.mark.skipif(
    "KAKUSAN_TEST_COMPILER" not in os.environ, reason="takes minutes and needs a C++ compiler: KAKUSAN_TEST_COMPILER=1"
)
@pytest.mark.filterwarnings("default")
def test_the_real_compiler_gives_the_same_curve(plain: Path, pictures: Path, tmp_path: Path) -> None:
    run = TrainingRun(
        settings(pictures, model={"dropout": 0.2}, engine={"compile": True}), tmp_path / "run", say=lambda line: None
    )
    run.run()
    assert losses(tmp_path / "run") == pytest.approx(losses(plain), rel=1e-4)
    assert folder(tmp_path / "run")[0]["denoiser"] == folder(plain)[0]["denoiser"]
