"""What to do when a loss or a gradient is not finite: say where it began, and never keep it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from kakusan.objectives import LossTerms
    from kakusan.train.distributed import World
    from kakusan.train.feed import Batch


@dataclass(frozen=True)
class Trouble:
    """Where a value stopped being finite."""

    step: int
    samples: tuple[str, ...]
    levels: tuple[float, ...]
    module: str
    what: str

    def __str__(self) -> str:
        who = ", ".join(self.samples) or "no single sample"
        at = ", ".join(f"{value:.2f}" for value in self.levels) or "unknown"
        return (
            f"step {self.step}: {self.what} is not finite; samples: {who}; log-SNR: {at}; first module: {self.module}"
        )


def together(trouble: Trouble, world: World) -> Trouble:
    """One trouble of several processes, the same in each: what those with bad samples say."""
    said = [Trouble(**each) for each in world.gather(dataclasses.asdict(trouble))]
    guilty = [each for each in said if each.samples] or said
    names = tuple(name for each in guilty for name in each.samples)[:4]
    levels = tuple(level for each in guilty for level in each.levels)[:4]
    return dataclasses.replace(guilty[0], samples=names, levels=levels)


def first_bad_module(module: nn.Module, run: Callable[[], Any]) -> str:
    """Name of the first submodule, in the order of execution, whose output is not finite, when `run` uses `module`."""
    found: list[str] = []
    handles = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                found.append(name)

        return hook

    for name, part in module.named_modules():
        if name:
            handles.append(part.register_forward_hook(watch(name)))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    for name, parameter in module.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"{found[0]}, because of the weights {name}" if found else f"the weights {name}"
    return found[0] if found else "none; the loss itself overflows"


def first_bad_gradient(module: nn.Module, run: Callable[[], LossTerms]) -> str:
    """The submodule, from the loss backwards, at whose output the gradient of `run`'s loss stops being finite."""
    found: list[str] = []
    handles = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(gradient: Tensor) -> None:
            if not found and not bool(gradient.isfinite().all()):
                found.append(name)

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(look)

        return hook

    for name, part in module.named_modules():
        if name:
            handles.append(part.register_forward_hook(watch(name)))
    try:
        loss = run().loss.sum()
        torch.autograd.grad(loss, [p for p in module.parameters() if p.requires_grad], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return f"behind {found[0]} (backward)" if found else "none; the norm of the gradient overflows"


def samples_with_bad_gradient(
    parameters: Sequence[nn.Parameter], run: Callable[[Batch], LossTerms], batch: Batch
) -> list[int]:
    """Places in the batch of up to four samples whose own gradient is not finite, found one by one."""
    bad: list[int] = []
    for i in range(len(batch)):
        loss = run(batch.part(slice(i, i + 1))).loss.sum()
        gradients = torch.autograd.grad(loss, [p for p in parameters if p.requires_grad], allow_unused=True)
        if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
            bad.append(i)
            if len(bad) == 4:
                break
    return bad
