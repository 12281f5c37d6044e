"""What the places of a network attended to: maps of attention to the tokens of a condition, as it runs.

In the manner of Tang et al. 2022 (DAAM, arXiv 2210.04885): weights of cross-attention, brought to the size of the data
and averaged over layers, heads and evaluations.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.nn.control import Controlled
from kakusan.nn.dit import DiT
from kakusan.nn.edm2 import MagnitudePreservingUNet
from kakusan.nn.fourier import FourierFeatures
from kakusan.nn.patch import Patched
from kakusan.nn.tokens import Watch
from kakusan.nn.transformer import TransformerBlock
from kakusan.nn.unet import UNet

_SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Reader:
    """One attention that reads tokens.

    Args:
        name: of the layer, in words.
        module: what runs; its `watch` is told the weights.
        stride: pixels of x beside each other that are one of its places, on each axis.
    """

    name: str
    module: nn.Module
    stride: int


@dataclass(frozen=True)
class Readers:
    """Every attention of a backbone that reads tokens.

    Args:
        layers: in the order they run.
        sets: names of the token sets, in their order among the keys.
        unit: sides of x are padded to multiples of it.
        joined: tokens are the last of the sequence; otherwise they have the keys to themselves, with a last key of
            zero.
    """

    layers: tuple[Reader, ...]
    sets: tuple[str, ...]
    unit: int
    joined: bool = False


@singledispatch
def readers(backbone: nn.Module) -> Readers:
    """Which attention of a backbone reads tokens.

    Raises:
        ValueError: none does.
    """
    raise ValueError(_no_tokens(backbone))


def _no_tokens(backbone: nn.Module) -> str:
    return (
        f"this {type(backbone).__name__} reads no tokens, so there are no maps of them; they come from a U-Net or DiT "
        "trained with token sets"
    )


@readers.register
def _(backbone: UNet | MagnitudePreservingUNet) -> Readers:
    layers = [(name, level, layer.cross) for name, level, layer in backbone.layers()]
    found = tuple(Reader(name, cross, 2**level) for name, level, cross in layers if cross is not None)
    if not found:
        raise ValueError(_no_tokens(backbone))
    return Readers(found, tuple(backbone.token_widths), backbone.factor)


@readers.register
def _(backbone: DiT) -> Readers:
    joined = backbone.context is not None
    found = []
    for number, block in enumerate(backbone.transformer.blocks):
        assert isinstance(block, TransformerBlock)
        part = block.attention if joined else block.cross
        if part is not None:
            found.append(Reader(f"block {number}", part.core, backbone.patch))
    if not backbone.token_widths:
        raise ValueError(_no_tokens(backbone))
    return Readers(tuple(found), tuple(backbone.token_widths), backbone.patch, joined)


@readers.register
def _(backbone: Patched) -> Readers:
    inner, patch = readers(backbone.backbone), backbone.patch
    layers = tuple(replace(layer, stride=layer.stride * patch) for layer in inner.layers)
    return replace(inner, layers=layers, unit=inner.unit * patch)


@readers.register
def _(backbone: FourierFeatures) -> Readers:
    return readers(backbone.backbone)


@readers.register
def _(backbone: Controlled) -> Readers:
    return readers(backbone.base)


class AttentionMaps:
    """What was recorded; `recorded` makes it.

    Values are the share of a place's attention that goes to a token; over all tokens and `nothing` they sum to 1.
    Linear attention between joined tokens is the one exception: its weights may be negative.

    Attributes:
        layers: names of the layers, in the order they run.
        evaluations: how many evaluations of the network were recorded.
        levels: c_noise of each of them, the first sample's.
        size: of x, (*spatial).
    """

    def __init__(
        self, found: Readers, *, rows: Any, evaluations: Collection[int] | None, heads: bool, each: bool
    ) -> None:
        self._found, self._rows, self._wanted = found, rows, evaluations
        self._heads, self._each = heads, each
        self._sums: dict[str, list[Tensor]] = {}
        self._lengths: tuple[int, ...] = ()
        self._now: tuple[int, ...] = ()
        self._seen = 0
        self._active = False
        self.layers = tuple(layer.name for layer in found.layers)
        self.evaluations = 0
        self.levels: list[float] = []
        self.size: tuple[int, ...] = ()

    def layer(self, name: str) -> Tensor:
        """The weights of one layer as they were, at its own resolution.

        Returns:
            (rows, heads, M + 1, *places), M the tokens of all sets in their order and last the share of nothing (of the
            other tokens of the sequence, where tokens join it); heads is 1, their mean, unless they were kept. Where
            each evaluation was kept, they come first: (evaluations, rows, heads, M + 1, *places); otherwise it is the
            mean over them.

        Raises:
            ValueError: nothing was recorded, or there is no such layer.
        """
        self._check()
        if name not in self._sums:
            raise ValueError(f"there is no layer {name!r} with attention to tokens; they are {', '.join(self.layers)}")
        kept = self._sums[name]
        return torch.stack(kept) if self._each else kept[0] / self.evaluations

    def of(self, name: str = "text", *, layers: Collection[str] | None = None) -> Tensor:
        """Maps of the tokens of one set at the size of x: the mean over heads and layers, each smoothly enlarged.

        Where evaluations had texts of different lengths, tokens that one of them did not have count as zero there.

        Args:
            name: of the token set.
            layers: names of the layers to take; all by default.

        Returns:
            (rows, L, *size), or (evaluations, rows, L, *size) where each evaluation was kept.

        Raises:
            ValueError: nothing was recorded, or no such set or layer.
        """
        self._check()
        sets = self._found.sets
        if name not in sets:
            raise ValueError(f"there is no token set {name!r}; there are {', '.join(sets)}")
        place = sets.index(name)
        return self._whole(layers).narrow(-1 - len(self.size), sum(self._lengths[:place]), self._lengths[place])

    def nothing(self, *, layers: Collection[str] | None = None) -> Tensor:
        """The share of attention that went to no token, (rows, *size); arguments and shapes as in `of`."""
        return self._whole(layers).select(-1 - len(self.size), -1)

    def _whole(self, layers: Collection[str] | None) -> Tensor:
        wanted = self.layers if layers is None else tuple(layers)
        if not wanted:
            raise ValueError(f"name at least one layer; they are {', '.join(self.layers)}")
        return torch.stack([self._enlarged(self.layer(name).mean(-2 - len(self.size))) for name in wanted]).mean(0)

    def _enlarged(self, maps: Tensor) -> Tensor:
        """(..., M + 1, *places) -> (..., M + 1, *size)."""
        rank = len(self.size)
        ahead, padded = maps.shape[: -1 - rank], _padded(self.size, self._found.unit)
        wide = F.interpolate(maps.flatten(0, -2 - rank), size=padded, mode=_SMOOTH[rank], align_corners=False)
        for dim, side in enumerate(self.size, start=2):
            wide = wide.narrow(dim, 0, side)
        return wide.unflatten(0, ahead)

    def _check(self) -> None:
        if not self.evaluations:
            raise ValueError(
                "nothing was recorded: the network did not run, none of the chosen evaluations came, or it ran as a "
                "CUDA graph, which cannot be watched"
            )

    def begin(self, x: Tensor, c_noise: Tensor, cond: Condition | None) -> None:
        """An evaluation starts."""
        self._active = self._wanted is None or self._seen in self._wanted
        self._seen += 1
        if not self._active:
            return
        tokens = {} if cond is None else cond.tokens
        if any(name not in tokens for name in self._found.sets):
            # The network itself says what is wrong with its condition.
            self._active = False
            return
        size = tuple(x.shape[2:])
        if self.evaluations and size != self.size:
            raise ValueError(f"maps of x {self.size} cannot be added to those of {size}; record them one by one")
        self._now = tuple(tokens[name].values.shape[1] for name in self._found.sets)
        before, self.size = self._lengths or self._now, size
        self._lengths = tuple(map(max, before, self._now))
        if before != self._lengths:
            for name, kept in self._sums.items():
                self._sums[name] = [_lengthened(maps, before, self._lengths) for maps in kept]
        self.evaluations += 1
        self.levels.append(float(c_noise.flatten()[0]))

    def end(self) -> None:
        """An evaluation ends; what runs from now on (activations computed again for a gradient) is not recorded."""
        self._active = False

    def watch(self, layer: Reader) -> Watch:
        """What is told the weights of a layer."""

        def told(weights: Tensor) -> None:
            if self._active:
                self._add(layer, weights.detach())

        return told

    def _add(self, layer: Reader, weights: Tensor) -> None:
        grid = [side // layer.stride for side in _padded(self.size, self._found.unit)]
        places, count = math.prod(grid), sum(self._now)
        if weights.shape[2] < places:
            raise ValueError("some places skip blocks while this network trains; call eval() before recording maps")
        weights = weights[slice(None) if self._rows is None else self._rows]
        if not self._heads:
            weights = weights.mean(dim=1, keepdim=True)
        weights = weights[:, :, :places]
        if self._found.joined:
            split = weights.shape[3] - count
            weights = torch.cat([weights[..., split:], weights[..., :split].sum(-1, keepdim=True)], dim=-1)
        maps = _lengthened(weights.mT.unflatten(3, grid).float().cpu(), self._now, self._lengths)
        kept = self._sums.setdefault(layer.name, [])
        if self._each or not kept:
            kept.append(maps.clone())
        elif kept[0].shape != maps.shape:
            raise ValueError(
                f"an evaluation had {len(maps)} rows where another had {len(kept[0])}; say which to record by rows="
            )
        else:
            kept[0] += maps


def _lengthened(maps: Tensor, lengths: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
    """(rows, heads, M + 1, *places) with zeros behind the tokens of each set, up to `wanted` of them."""
    if lengths == wanted:
        return maps
    parts = []
    for part, length, most in zip(maps.split([*lengths, 1], dim=2), (*lengths, 1), (*wanted, 1), strict=True):
        parts += [part, part.new_zeros(*part.shape[:2], most - length, *part.shape[3:])]
    return torch.cat(parts, dim=2)


def _padded(size: Sequence[int], unit: int) -> list[int]:
    return [-(-side // unit) * unit for side in size]


@contextlib.contextmanager
def recorded(
    backbone: nn.Module,
    *,
    rows: slice | Sequence[int] | None = None,
    evaluations: Collection[int] | None = None,
    heads: bool = False,
    each: bool = False,
) -> Iterator[AttentionMaps]:
    """Context in which the attention of a backbone to its tokens is recorded; what it computes stays as it is.

    Sums are kept in float32 on the CPU, so memory does not grow with the evaluations (unless `each`). A compiled
    backbone runs as written meanwhile.

    Args:
        backbone: a U-Net or DiT with token sets, or one of those in patches, beside Fourier features or with a control
            branch.
        rows: of a batch which to record. Guidance runs the conditional samples first and others behind them, so
            `rows=slice(num)` are the `num` conditional ones; all by default.
        evaluations: which, counted from 0 since the beginning; all by default. A sampler of second order has two for
            each step.
        heads: keep heads apart in place of their mean.
        each: keep evaluations apart in place of their mean.

    Raises:
        ValueError: the network reads no tokens, or is being recorded already.
    """
    found = readers(backbone)
    if any(layer.module.watch is not None for layer in found.layers):
        raise ValueError("this network is being recorded already; one record at a time")
    maps = AttentionMaps(found, rows=rows, evaluations=evaluations, heads=heads, each=each)

    def begin(_: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        given = dict(zip(("x", "c_noise", "cond"), args, strict=False)) | dict(named)
        maps.begin(given["x"], given["c_noise"], given.get("cond"))

    def end(*_: object) -> None:
        maps.end()

    compiled = [(part, part._compiled_call_impl) for part in backbone.modules() if part._compiled_call_impl is not None]
    hooks = [
        backbone.register_forward_pre_hook(begin, with_kwargs=True),
        backbone.register_forward_hook(end, always_call=True),
    ]
    try:
        for part, _ in compiled:
            part._compiled_call_impl = None
        for layer in found.layers:
            layer.module.watch = maps.watch(layer)  # type: ignore[assignment]
        yield maps
    finally:
        for layer in found.layers:
            del layer.module.watch
        for part, call in compiled:
            part._compiled_call_impl = call
        for hook in hooks:
            hook.remove()
