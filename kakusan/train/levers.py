"""Levers that make training faster or smaller and leave the curve as it is, up to rounding.

They act on the network in memory and never on what is saved: names, shapes and descriptions in a model folder are the
same with and without.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kakusan.nn import DiT, UNet, layout
from kakusan.nn.layout import FORMATS

if TYPE_CHECKING:
    from kakusan.config import EngineSettings


@dataclass(frozen=True)
class Levers:
    """What is used, after the defaults of the device.

    Args:
        compile: training passes of the backbone run compiled by `torch.compile`.
        channels_last: maps and kernels of convolutions over two and three dimensions lie in memory with their channels
            last; None lets each network decide for its maps (`kakusan.nn.layout`).
        checkpointing: activations are computed again in the backward pass in place of being kept.
    """

    compile: bool = False
    channels_last: bool | None = None
    checkpointing: bool = False


# Where the settings leave it open. Compiling pays where a CPU multiplies bfloat16 by itself, because what is left there
# are passes over memory: after one to two minutes of compiling a DiT's step ran at 1.7x, a U-Net's at 1.3x (measured on
# tiles, docs/results/throughput.md); in float32 at 1.03x (docs/results/engine.md). What is not measured is off: other
# devices, and several processes (FSDP takes no compiled network at all).
DEFAULTS: dict[str, Levers] = {"cpu": Levers()}
# A run this long gets its minute of compiling back several times.
COMPILED_FROM_MINUTES = 15.0


def choose_levers(
    settings: EngineSettings,
    device: torch.device,
    *,
    backbone: nn.Module | None = None,
    precision: str = "fp32",
    minutes: float | None = None,
    processes: int = 1,
) -> Levers:
    """The levers that the settings and the device ask for.

    Args:
        settings: what is given counts.
        device: where the run is.
        backbone: what is trained.
        precision: name of its number format.
        minutes: how long the run will be, where that is known.
        processes: that train together.
    """
    usual = DEFAULTS.get(device.type, Levers())
    if (
        device.type == "cpu"
        and precision == "bf16"
        and (isinstance(backbone, DiT) or (_of_pictures(backbone) and layout.MULTIPLIES_TILES))
        and (minutes or 0.0) >= COMPILED_FROM_MINUTES
        and processes == 1
        and _has_compiler()
    ):
        usual = replace(usual, compile=True)
    return Levers(
        usual.compile if settings.compile is None else settings.compile,
        usual.channels_last if settings.channels_last is None else settings.channels_last,
        settings.checkpointing,
    )


def _of_pictures(backbone: nn.Module | None) -> bool:
    return isinstance(backbone, UNet) and backbone.rank == 2


def _has_compiler() -> bool:
    """Whether `torch.compile` will find a C++ compiler, as it looks for one."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def pull(backbone: nn.Module, levers: Levers, *, asked: bool = True) -> None:
    """Set a backbone up for training, in place.

    Args:
        backbone: what is trained.
        levers: what is used.
        asked: whether a person asked for compiling; where nobody did, a network that cannot be compiled here runs as
            written, with a warning.

    Raises:
        ValueError: the network has nothing for a lever to act on.
    """
    if levers.checkpointing:
        able = [part for part in backbone.modules() if hasattr(part, "checkpointing")]
        if not able:
            raise ValueError(
                f"{type(backbone).__name__} cannot compute its activations again in the backward pass; leave "
                "--checkpointing out, and save memory by --micro-batch"
            )
        for part in able:
            part.checkpointing = True  # type: ignore[assignment]
    if levers.channels_last:
        kernels = [p for p in backbone.parameters() if p.dim() in FORMATS]
        if not kernels:
            raise ValueError(
                f"{type(backbone).__name__} has no convolution over two or three dimensions, so there are no channels "
                "to put last; leave --channels-last out"
            )
        for kernel in kernels:
            kernel.data = kernel.data.contiguous(memory_format=FORMATS[kernel.dim()])
    for part in backbone.modules():
        if hasattr(part, "channels_last"):
            part.channels_last = levers.channels_last  # type: ignore[assignment]
    if levers.compile:
        # In place: a wrapper would change the names of all tensors. Random numbers as without compiling, so that
        # dropout is the same. One program for each shape: there are two at most, whole parts of a batch and the rest.
        backbone.compile(dynamic=False, options={"fallback_random": True})
        if not asked:
            backbone._compiled_call_impl = _or_as_written(backbone, backbone._compiled_call_impl)


def _or_as_written(backbone: nn.Module, compiled: Any) -> Callable[..., Tensor]:
    def call(*inputs: Any, **named: Any) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException

        try:
            out: Tensor = compiled(*inputs, **named)
        except TorchDynamoException as error:
            said = str(error).strip().splitlines() or [""]
            why = f"{type(error).__name__}: {said[0]}"
            warnings.warn(f"the network cannot be compiled here and runs as written ({why})", stacklevel=2)
            backbone._compiled_call_impl = None
            out = backbone._call_impl(*inputs, **named)
        return out

    return call


@contextlib.contextmanager
def uncompiled(module: nn.Module) -> Iterator[None]:
    """Context in which compiled parts run as written: for sampling and measuring, whose shapes would each be compiled
    anew, and for hooks, which compiled code does not call."""
    kept: list[tuple[Any, Any]] = [
        (part, part._compiled_call_impl) for part in module.modules() if part._compiled_call_impl is not None
    ]
    for part, _ in kept:
        part._compiled_call_impl = None
    try:
        yield
    finally:
        for part, call in kept:
            part._compiled_call_impl = call


def lie_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy of `value` with the strides of `parameter`, where both have one shape.

    Fused optimizers walk a parameter, its gradient and its moments through memory side by side and do not look at
    strides: a moment that was loaded contiguous would meet the wrong weights.
    """
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
