"""A branch beside a frozen U-Net that follows a picture (Zhang et al. 2023, ControlNet, arXiv 2302.05543)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.nn.blocks import conv
from kakusan.nn.checkpointing import run
from kakusan.nn.fourier import FourierFeatures
from kakusan.nn.layout import laid
from kakusan.nn.norms import full_precision
from kakusan.nn.patch import Patched
from kakusan.nn.shapes import check_input, pad
from kakusan.nn.tokens import MapCrossAttention
from kakusan.nn.unet import Told, UNet
from kakusan.specs import register


@register
class Controlled(nn.Module):
    """A frozen U-Net and a trainable copy of its encoder half, which alone sees `Condition.spatial`.

    What the copy computes enters the decoder of the frozen network through convolutions that start at zero, so before
    the first step the output is that of the frozen network, bit for bit, and its weights never move: neither gradients
    nor dropout reach it.

    Args:
        base: a trained U-Net without spatial condition.
        spatial_channels: channels of `Condition.spatial`.
    """

    def __init__(self, *, base: UNet, spatial_channels: int) -> None:
        super().__init__()
        if base.spatial_channels:
            raise ValueError(
                "this network starts from a picture already; a control branch goes beside one that does not"
            )
        if spatial_channels < 1:
            raise ValueError(f"a control branch sees at least one channel, got {spatial_channels}")
        self.channels, self.out_channels, self.rank = base.channels, base.out_channels, base.rank
        self.condition_width, self.augment_width = base.condition_width, base.augment_width
        self.spatial_channels, self.token_widths = spatial_channels, base.token_widths
        self.base = base.requires_grad_(False).eval()
        self.branch = ControlBranch(base, spatial_channels)

    @property
    def checkpointing(self) -> bool:
        """Whether activations of the branch are computed again in the backward pass."""
        return self.branch.checkpointing

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.branch.checkpointing = value

    def train(self, mode: bool = True) -> Controlled:
        super().train(mode)
        # No dropout in what does not learn.
        self.base.eval()
        return self

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        check_input(self, x, c_noise, cond)
        assert cond is not None
        assert cond.spatial is not None
        plain = replace(cond, spatial=None)
        out: Tensor = self.base(x, c_noise, plain, beside=self.branch(x, c_noise, plain, cond.spatial))
        return out


class ControlBranch(nn.Module):
    """The encoder half of a U-Net, copied, with a way in for a picture and ways out that start at zero."""

    def __init__(self, base: UNet, spatial_channels: int) -> None:
        super().__init__()
        self.stem, self.down, self.middle, self.embedding = (
            copy.deepcopy(part).requires_grad_(True) for part in (base.stem, base.down, base.middle, base.embedding)
        )
        self.downsample, self.factor, self.checkpointing = base.downsample, base.factor, False
        self.channels_last: bool | None = None
        # The modulation of the blocks that are copied: the first, in the order they run.
        count = sum(len(cast(nn.ModuleList, stage)) for stage in base.down) + len(base.middle)
        self._widths = base._modulation_widths[:count]
        rows = sum(self._widths)
        self.modulation = nn.Linear(base.modulation.in_features, rows)
        with torch.no_grad():
            self.modulation.weight.copy_(base.modulation.weight[:rows])
            self.modulation.bias.copy_(base.modulation.bias[:rows])
        readers = sum(isinstance(part, MapCrossAttention) for part in (*self.down.modules(), *self.middle.modules()))
        self.context = None if base.context is None else base.context.first(readers)
        width = base.skip_widths[0]
        self.look = conv(base.rank, spatial_channels, width)
        # ControlNet starts this at zero too, and then hears the picture only after its ways out have moved; those at
        # zero are enough for the output to be that of the frozen network.
        self.enter = conv(base.rank, width, width)
        self.leave = nn.ModuleList(conv(base.rank, width, width, 1, zero=True) for width in base.skip_widths)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition, spatial: Tensor) -> Sequence[Tensor]:
        spatial = spatial.to(x.dtype).expand(len(x), *spatial.shape[1:])
        h = self.stem(pad(x, self.factor)) + self.enter(F.silu(self.look(pad(spatial, self.factor))))
        h = laid(h, self.channels_last)
        with full_precision(c_noise):
            rows: Tensor = self.modulation(self.embedding(c_noise, cond.vector, cond.augment))
        modulation = iter(rows.split(self._widths, dim=1))
        told = Told(self.context, cond, len(x))
        found = []
        for level, stage in enumerate(cast(nn.ModuleList, self.down)):
            h = self.downsample(h) if level else h
            for layer in cast(nn.ModuleList, stage):
                h = run(layer, h, next(modulation), *told.of(layer), checkpointing=self.checkpointing)
                found.append(h)
        for layer in cast(nn.ModuleList, self.middle):
            h = run(layer, h, next(modulation), *told.of(layer), checkpointing=self.checkpointing)
        return [leave(part) for leave, part in zip(self.leave, [*found, h], strict=True)]


@singledispatch
def controlled(backbone: nn.Module, spatial_channels: int) -> nn.Module:
    """A trained backbone with a branch beside it that sees `spatial_channels` channels.

    Raises:
        ValueError: a backbone that has no encoder half to copy.
    """
    raise ValueError(f"a control branch is made of a U-Net, and this network is a {type(backbone).__name__}")


@controlled.register
def _(backbone: UNet, spatial_channels: int) -> nn.Module:
    return Controlled(base=backbone, spatial_channels=spatial_channels)


@controlled.register
def _(backbone: Patched, spatial_channels: int) -> nn.Module:
    rank = int(getattr(backbone.backbone, "rank"))  # noqa: B009 (any module may stand there)
    inner = controlled(backbone.backbone, spatial_channels * backbone.patch**rank)
    return Patched(backbone=inner, patch=backbone.patch)


@controlled.register
def _(backbone: FourierFeatures, spatial_channels: int) -> nn.Module:
    inner = controlled(backbone.backbone, spatial_channels)
    return FourierFeatures(backbone=inner, frequencies=backbone.frequencies)
