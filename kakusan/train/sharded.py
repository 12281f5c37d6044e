"""Fully sharded training: weights, gradients, averages and moments are cut over the processes (FSDP2).

Checkpoints go through torch.distributed.checkpoint in its safetensors storage: every process writes its part, process 0
puts the parts together to the same files that one process would have written, and any number of processes reads them,
each its part alone. The default storage of that library is never used: its metadata is a pickle.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from kakusan.model_folder import EMA, WEIGHTS, CorruptModel, read_facts, verified
from kakusan.nn.magnitude import Weighted
from kakusan.run_folder import OPTIMIZER, STATE, RunFolder
from kakusan.train.distributed import World
from kakusan.train.parallel import Averages, SharedLoss, State, _LossModule, _Several

if TYPE_CHECKING:
    from kakusan.model_folder import Model
    from kakusan.objectives import LossTerms
    from kakusan.train.ema import Ema
    from kakusan.train.feed import Batch, Feed
    from kakusan.train.trainer import DiffusionLoss, Trainer

_WEIGHTS, _EMA, _OPTIMIZER = "weights/", "ema/", "optimizer/"


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The entries of the innermost lists of modules: what a network repeats, and gathers one at a time."""
    for part in module.modules():
        if not isinstance(part, nn.ModuleList):
            continue
        for entry in part:
            if not any(isinstance(inner, nn.ModuleList) for inner in entry.modules()) and list(entry.parameters()):
                yield entry


class Sharded(_Several):
    """Fully sharded data parallel: of weights, gradients, averages and moments each process holds a part."""

    name = "fsdp"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._copy: Model | None = None

    def check(self, model: nn.Module, batch: int) -> None:
        super().check(model, batch)
        single = [name for name, p in model.named_parameters() if p.dim() == 0]
        if single:
            raise ValueError(
                f"{', '.join(single[:3])} of this model is a single number, which cannot be cut into parts; use "
                "--parallel ddp"
            )
        compiled = any(part._compiled_call_impl is not None for part in model.modules())
        settling = any(isinstance(part, Weighted) for part in model.modules())
        if compiled or settling:
            what = "a compiled network" if compiled else "a network that settles its weights before every pass (EDM2)"
            raise ValueError(f"{what} cannot be trained in parts; use --parallel ddp")

    def share(self, model: Model, loss: DiffusionLoss, feed: Feed) -> Callable[[Batch], LossTerms]:
        self.check(model, feed.size)
        # Process 0 measures, draws and saves with whole weights, in a copy that waits in the machine's memory.
        self._copy = copy.deepcopy(model).cpu() if self.world.main else None
        mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        for block in blocks(model):
            fully_shard(block, mesh=mesh)
        through = _LossModule(model, loss)
        fully_shard(through, mesh=mesh)
        return SharedLoss(loss, through, self.world)

    def plain(self, loss: Callable[[Batch], LossTerms]) -> Callable[[Batch], LossTerms] | None:
        return None

    def norm(self, norm: Tensor) -> Tensor:
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @property
    def can_rescue(self) -> bool:
        return False

    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors, one after the other; kept by process 0 alone."""
        found = {}
        for name, value in tensors.items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if self.world.main:
                found[name] = full.detach()
        return found

    def shown(self, trainer: Trainer) -> tuple[Model, Mapping[str, Tensor]]:
        weights = self._gathered(trainer.module.state_dict())
        average = self._gathered(next(iter(trainer.ema.averages.values())))
        if self._copy is None:
            return cast("Model", trainer.module), average
        self._copy.to(self.world.device).load_state_dict(weights)
        return self._copy, average

    def ema(self, trainer: Trainer) -> Ema:
        found = copy.copy(trainer.ema)
        found.averages = {profile: self._gathered(part) for profile, part in trainer.ema.averages.items()}
        return found

    def whole(self, trainer: Trainer, folder: RunFolder) -> tuple[Model, Averages, Mapping[str, Tensor]]:
        parts = folder.checkpoints / f".part-shards-{trainer.step:08d}"
        tensors = _named(trainer.module.state_dict(), trainer.ema.averages, trainer.state()[0])
        self.world.alone(lambda: _emptied(parts))
        try:
            save(tensors, storage_writer=HuggingFaceStorageWriter(str(parts), save_distributed=True))
        except CheckpointException as error:
            reasons = "; ".join(f"rank {rank}: {why[0]}" for rank, why in error.failures.items())
            raise ValueError(f"the parts of the checkpoint could not be written to {parts} ({reasons})") from error
        self.world.barrier()
        if self._copy is None:
            return cast("Model", trainer.module), trainer.ema.averages, {}
        try:
            full = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in tensors.items()}
            with warnings.catch_warnings():
                # That one process reads alone is meant.
                warnings.simplefilter("ignore", UserWarning)
                load(cast(dict[str, Any], full), storage_reader=HuggingFaceStorageReader(str(parts)), no_dist=True)
        finally:
            shutil.rmtree(parts, ignore_errors=True)
        weights, averages, optimizer = _parted(full)
        self._copy.cpu().load_state_dict(weights)
        return self._copy, averages, optimizer

    def read(self, checkpoint: Path, trainer: Trainer) -> State:
        def look() -> None:
            facts = read_facts(checkpoint)
            for name in (WEIGHTS, EMA, OPTIMIZER, STATE):
                verified(checkpoint, name, facts)

        self.world.alone(look)
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        weights = dict(trainer.module.state_dict())
        averages = {profile: dict(part) for profile, part in trainer.ema.averages.items()}
        flat = {f"{profile}/{name}": value for profile, part in averages.items() for name, value in part.items()}
        optimizer = _empty_like_parts(checkpoint / OPTIMIZER, trainer)
        _read_parts({**weights, **flat, **optimizer}, checkpoint)
        return weights, optimizer, averages, state


def _read_parts(tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill tensors, each process its parts, from the safetensors files of a folder."""
    try:
        load(cast(dict[str, Any], tensors), storage_reader=HuggingFaceStorageReader(str(folder)))
    except CheckpointException as error:
        reasons = "; ".join(f"rank {rank}: {why[0]}" for rank, why in error.failures.items())
        raise CorruptModel(f"{folder} does not fit this run ({reasons})") from error


def _empty_like_parts(path: Path, trainer: Trainer) -> dict[str, Tensor]:
    """The optimizer's tensors that a file holds, empty, cut as the parameters are that they belong to."""
    from safetensors import safe_open

    owners = [[p for group in o.param_groups for p in group["params"]] for each in trainer.optimizers for o in each]
    found: dict[str, Tensor] = {}
    with safe_open(str(path), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            which, index, _ = name.split("/")
            owner = owners[int(which)][int(index)]
            shape = torch.Size(file.get_slice(name).get_shape())
            found[name] = torch.empty_like(owner) if shape == owner.shape else torch.empty(shape)
    return {name: value.detach() for name, value in found.items()}


def _named(weights: Mapping[str, Tensor], averages: Averages, optimizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One flat dictionary of everything."""
    found = {_WEIGHTS + name: value for name, value in weights.items()}
    found |= {f"{_EMA}{profile}/{name}": v for profile, part in averages.items() for name, v in part.items()}
    return found | {_OPTIMIZER + name: value for name, value in optimizer.items()}


def _parted(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The inverse of `_named`."""

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    averages: dict[str, dict[str, Tensor]] = {}
    for name, value in under(_EMA).items():
        profile, _, rest = name.partition("/")
        averages.setdefault(profile, {})[rest] = value
    return under(_WEIGHTS), averages, under(_OPTIMIZER)


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
