"""What to do when a loss or a gradient is not finite: say where it began, and never keep it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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
            f"step {self.step}: {self.what} is not finite; samples: {who}; log-SNR: {at}; "
            f"first module with such an output: {self.module}"
        )


def first_bad_module(module: nn.Module, run: Callable[[], Any]) -> str:
    """Name of the first submodule, in the order of execution, whose output is not finite; "none" if there is none."""
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
    if found:
        return found[0]
    for name, parameter in module.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"the weights of {name}"
    return "none (the backward pass)"
