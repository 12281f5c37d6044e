"""Exponential moving averages of the weights, several at once, each with a name.

A profile of relative width w averages over a fixed fraction of the training so far (Karras et al. 2024, arXiv
2312.02696, eq. 1-3): short runs get short averages and an early average is never made of the random start.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EmaProfile:
    """A power-function average.

    Args:
        width: standard deviation of the averaging window over the training time, in (0, 0.28).
    """

    width: float = 0.10

    def __post_init__(self) -> None:
        if not 0.0 < self.width < 0.28:
            raise ValueError(f"the width of an EMA profile lies between 0 and 0.28, got {self.width}")

    @functools.cached_property
    def exponent(self) -> float:
        """gamma with width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), by bisection."""
        low, high = 0.0, 1e6
        for _ in range(200):
            middle = 0.5 * (low + high)
            if (middle + 1.0) / ((middle + 2.0) ** 2 * (middle + 3.0)) > self.width**2:
                low = middle
            else:
                high = middle
        return low

    def keep(self, update: int) -> float:
        """How much of the old average stays at this update, counted from 1; 0 at the first."""
        return (1.0 - 1.0 / update) ** (self.exponent + 1.0)


class Ema:
    """The averages of a module's parameters under one or more profiles, kept in fp32."""

    def __init__(self, module: nn.Module, profiles: Mapping[str, EmaProfile]) -> None:
        self.profiles = dict(profiles)
        self.updates = 0
        self._live = [(name, p) for name, p in module.named_parameters()]
        self.averages = {profile: {name: p.detach().clone() for name, p in self._live} for profile in self.profiles}

    @torch.no_grad()
    def update(self) -> None:
        """Move every average towards the weights as they are now."""
        self.updates += 1
        live = [p.detach() for _, p in self._live]
        for name, profile in self.profiles.items():
            averages = list(self.averages[name].values())
            torch._foreach_lerp_(averages, live, 1.0 - profile.keep(self.updates))

    @torch.no_grad()
    def load(self, averages: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        """Continue from saved averages."""
        self.updates = updates
        for profile, tensors in self.averages.items():
            for name, value in tensors.items():
                value.copy_(averages[profile][name])
