"""CUDA graphs for sampling: the launches of an evaluation's hundreds of kernels become one.

A small network on a fast GPU is bound by launching kernels, not by running them. A graph is recorded for each kind of
call (shapes and dtypes of all inputs) and replayed on inputs copied to where they were at the recording.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kakusan.conditioning import Condition

WARM_UPS = 3
MOST = 16
"""Kinds of call that are recorded; each graph keeps memory for its activations. Further ones run as written."""

Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]
"""Records a call; returns what replays it and the tensor that then holds its result."""


def cuda_recorder() -> Record:
    """A recorder whose graphs share one pool of memory, as only one of them runs at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        # Libraries choose kernels and allocate workspaces in the first calls, which must not be part of the graph.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            out = call()
        return graph.replay, out

    return record


@dataclass
class _Recorded:
    x: Tensor
    c_noise: Tensor
    cond: Condition | None
    replay: Callable[[], object]
    out: Tensor


class Graphs:
    """The recorded calls of one backbone. Gradients never flow through them.

    Args:
        backbone: its parameters must stay where they are while recorded calls are used; `active` looks once.
        record: how a call is recorded; on CUDA `cuda_recorder()`.
    """

    def __init__(self, backbone: nn.Module, record: Record) -> None:
        self.backbone, self.record = backbone, record
        self._calls: dict[Hashable, _Recorded | None] = {}
        self._weights: tuple[int, ...] = ()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Context in which the backbone is replayed where it can be: no gradients, no training mode."""
        weights = tuple(p.data_ptr() for p in (*self.backbone.parameters(), *self.backbone.buffers()))
        if weights != self._weights:
            # A graph reads the memory that it was recorded with, whatever the parameters are now.
            self._calls.clear()
            self._weights = weights
        kept = self.backbone._compiled_call_impl
        # The way torch itself replaces a module's call without changing its name or its tensors.
        self.backbone._compiled_call_impl = self.call
        try:
            yield
        finally:
            self.backbone._compiled_call_impl = kept

    def call(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        """What the backbone says, in memory of its own."""
        if torch.is_grad_enabled() or self.backbone.training:
            return self._plain(x, c_noise, cond)
        device = x.device.type
        mixed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        tensors = (x, c_noise, *(() if cond is None else cond.tensors()))
        names = None if cond is None else (cond.vector is None, tuple(cond.tokens), cond.spatial is None)
        masked = None if cond is None else tuple(t.mask is None for t in cond.tokens.values())
        key = (mixed, names, masked, tuple((tuple(t.shape), t.dtype, t.device) for t in tensors))
        if key not in self._calls and len(self._calls) < MOST:
            self._calls[key] = self._recorded(x, c_noise, cond, mixed)
        found = self._calls.get(key)
        if found is None:
            return self._plain(x, c_noise, cond)
        found.x.copy_(x)
        found.c_noise.copy_(c_noise)
        if cond is not None and found.cond is not None:
            for mine, theirs in zip(found.cond.tensors(), cond.tensors(), strict=True):
                mine.copy_(theirs)
        found.replay()
        # Samplers keep past outputs, and the next replay overwrites this one.
        return found.out.clone()

    def _recorded(
        self, x: Tensor, c_noise: Tensor, cond: Condition | None, mixed: torch.dtype | None
    ) -> _Recorded | None:
        # Contiguous copies: an expanded condition has one row of memory for many samples.
        held = (x.contiguous().clone(), c_noise.contiguous().clone())
        said = None if cond is None else cond.map(lambda value: value.contiguous().clone())

        def run() -> Tensor:
            # Not the autocast around the call: what that keeps of cast weights is freed when it ends.
            with torch.autocast(x.device.type, dtype=mixed, enabled=mixed is not None, cache_enabled=False):
                return self._plain(held[0], held[1], said)

        try:
            replay, out = self.record(run)
        except RuntimeError as error:
            warnings.warn(
                f"{type(self.backbone).__name__} cannot be recorded as a CUDA graph and runs as written: "
                f"{str(error).splitlines()[0]}",
                stacklevel=2,
            )
            return None
        return _Recorded(*held, said, replay, out)

    def _plain(self, x: Tensor, c_noise: Tensor, cond: Condition | None) -> Tensor:
        out: Tensor = self.backbone._call_impl(x, c_noise, cond)
        return out


def graphs_of(backbone: nn.Module) -> Graphs:
    """CUDA graphs for a backbone.

    Raises:
        ValueError: it is not on a CUDA device.
    """
    device = next(backbone.parameters()).device
    if device.type != "cuda":
        raise ValueError(f"CUDA graphs need a CUDA device, this model is on {device.type}; leave --cuda-graphs out")
    return Graphs(backbone, cuda_recorder())
