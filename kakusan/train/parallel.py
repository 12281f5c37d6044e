"""One training step by many processes: each takes its rows of the batch, and the gradients become those of the whole.

`Replicated` (DDP) holds everything in every process. `Sharded` (FSDP2, Zhao et al. 2023, arXiv 2304.11277; Rajbhandari
et al. 2020, arXiv 1910.02054, stage 3) cuts weights, gradients, averages and moments into as many parts as there are
processes. Noise, times, mirrored pictures and dropped conditions belong to the sample's number, so the curve is that of
one process, up to the order in which numbers are added.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from kakusan.couplings import TrainingNoise
from kakusan.objectives import LossTerms
from kakusan.run_folder import RunFolder, read_state
from kakusan.specs import suggestion
from kakusan.train.distributed import World
from kakusan.train.memory import NotEnoughMemory, out_of_memory

if TYPE_CHECKING:
    from kakusan.model_folder import Model
    from kakusan.train.ema import Ema
    from kakusan.train.feed import Batch, Feed
    from kakusan.train.trainer import DiffusionLoss, Trainer

Averages = Mapping[str, Mapping[str, Tensor]]
State = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, Any]]


class _LossModule(nn.Module):
    """A model and its loss as one module: DDP and FSDP act where a module is called. (loss, x0_error, t), each (B,)."""

    def __init__(self, model: nn.Module, loss: Callable[[Batch], LossTerms]) -> None:
        super().__init__()
        self.model = model
        self._loss = (loss,)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        terms = self._loss[0](batch)
        return terms.loss, terms.x0_error, terms.t


class SharedLoss:
    """The loss of this process's rows, computed through what shares the gradients.

    Args:
        plain: the loss itself.
        through: the wrapped module that computes it.
        world: the processes.
    """

    def __init__(self, plain: DiffusionLoss, through: nn.Module, world: World) -> None:
        self.plain, self.through, self.world = plain, through, world

    def __call__(self, batch: Batch) -> LossTerms:
        return LossTerms(*self.through(batch))

    def prepare(self, batch: Batch) -> Batch:
        """This process's rows with their noise, dealt out over the whole batch where the coupling looks at all of
        it.
        """
        coupling = self.plain.objective.coupling
        if coupling.independent:
            return batch
        where, gather = batch.x0.device, self.world.rows
        numbers, indices = gather(batch.numbers.to(where)).cpu(), gather(batch.indices.to(where)).cpu()
        labels = None if batch.raw is None else gather(batch.raw)
        eps = coupling.eps(gather(batch.x0), TrainingNoise(self.plain.seed, numbers, indices=indices, labels=labels))
        first = int((numbers < batch.numbers[0]).sum())
        return dataclasses.replace(batch, eps=eps[first : first + len(batch)])


class Parallel:
    """One process: nothing is shared. Its methods are what the training loop asks of many."""

    name = "one"

    def __init__(self, world: World) -> None:
        self.world = world

    def check(self, model: nn.Module, batch: int) -> None:
        """Refuse what these processes cannot train."""
        if batch < self.world.size:
            raise ValueError(
                f"{self.world.size} processes cannot share a batch of {batch}; use a larger --batch or fewer processes"
            )

    def share(self, model: Model, loss: DiffusionLoss, feed: Feed) -> Callable[[Batch], LossTerms]:
        """The loss to train on; the model is set up in place, before optimizers and averages are made of it.

        Raises:
            ValueError: something that these processes cannot train.
        """
        return loss

    def plain(self, loss: Callable[[Batch], LossTerms]) -> Callable[[Batch], LossTerms] | None:
        """The loss without what shares its gradients, to look for bad samples with; None where there is none."""
        return getattr(loss, "plain", loss)

    def cuts(self, count: int, size: int, whole: int) -> list[slice]:
        """The parts, of `size` samples or fewer, in which `count` rows (of a batch of `whole`) are computed."""
        return [slice(start, start + size) for start in range(0, count, size)]

    @contextlib.contextmanager
    def reduced(self, loss: Callable[[Batch], LossTerms], last: bool) -> Iterator[None]:
        """Context of the forward and backward pass of one part; gradients are summed up at the last."""
        yield

    def mean(self, losses: Tensor, whole: int) -> Tensor:
        """Mean of the losses (B_rank,) of all processes, ()."""
        return losses.mean()

    def norm(self, norm: Tensor) -> Tensor:
        """The norm of the whole gradient, ()."""
        return norm

    @property
    def can_rescue(self) -> bool:
        """Whether this process can save the run without the others."""
        return self.world.main

    def shown(self, trainer: Trainer) -> tuple[Model, Mapping[str, Tensor]]:
        """(model, the first average) with whole weights, for process 0 to measure and draw with."""
        return cast("Model", trainer.module), next(iter(trainer.ema.averages.values()))

    def whole(self, trainer: Trainer, folder: RunFolder) -> tuple[Model, Averages, Mapping[str, Tensor]]:
        """(model, averages, optimizer tensors), whole, for process 0 to save."""
        return cast("Model", trainer.module), trainer.ema.averages, trainer.state()[0]

    def ema(self, trainer: Trainer) -> Ema:
        """All averages, whole, for process 0."""
        return trainer.ema

    def read(self, checkpoint: Path, trainer: Trainer) -> State:
        """What `run_folder.read_state` gives, as this process holds it."""
        return read_state(checkpoint)


class _Several(Parallel):
    """What both ways of sharing have in common."""

    def cuts(self, count: int, size: int, whole: int) -> list[slice]:
        # As many parts in every process, because their passes meet each other; and none of them empty.
        most, least = -(-whole // self.world.size), whole // self.world.size
        parts = min(-(-most // size), least)
        return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]

    @contextlib.contextmanager
    def reduced(self, loss: Callable[[Batch], LossTerms], last: bool) -> Iterator[None]:
        try:
            with self._summed(loss, last):
                yield
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                # The others wait for this process within the pass, so it cannot be begun anew with less.
                raise NotEnoughMemory(
                    f"rank {self.world.rank} is out of memory; start the same command again with a smaller "
                    f"--micro-batch ({(str(error).splitlines() or ['no memory'])[0]})"
                ) from error
            raise

    def _summed(self, loss: Callable[[Batch], LossTerms], last: bool) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def mean(self, losses: Tensor, whole: int) -> Tensor:
        return self.world.sum(losses.sum()) / whole


class Replicated(_Several):
    """Distributed data parallel (Li et al. 2020, arXiv 2006.15704): the whole model in every process."""

    name = "ddp"

    def share(self, model: Model, loss: DiffusionLoss, feed: Feed) -> Callable[[Batch], LossTerms]:
        self.check(model, feed.size)
        from torch.nn.parallel import DistributedDataParallel

        parameters = [p for p in model.parameters() if p.requires_grad]
        used = torch.autograd.grad(loss(feed.batch(0).part(slice(0, 1))).loss.sum(), parameters, allow_unused=True)
        with warnings.catch_warnings():
            # Newer versions call it forward_sync_buffers. Buffers are equal from the start and nothing changes them.
            warnings.simplefilter("ignore", FutureWarning)
            through = DistributedDataParallel(
                _LossModule(model, loss),
                broadcast_buffers=False,
                # Looked up in every step, and complained about by torch when it was not needed.
                find_unused_parameters=any(gradient is None for gradient in used),
            )
        return SharedLoss(loss, through, self.world)

    def _summed(self, loss: Callable[[Batch], LossTerms], last: bool) -> contextlib.AbstractContextManager[Any]:
        through: Any = getattr(loss, "through", None)
        return contextlib.nullcontext() if last or through is None else through.no_sync()


def parallel(name: str, world: World) -> Parallel:
    """The way of that name (ddp, fsdp) for these processes; for one process, none is needed.

    Raises:
        ValueError: no such name.
    """
    from kakusan.train.sharded import Sharded

    ways: dict[str, type[Parallel]] = {way.name: way for way in (Replicated, Sharded)}
    if name not in ways:
        raise ValueError(f"no way {name!r} to share a step{suggestion(name, list(ways))}; there are {', '.join(ways)}")
    return Parallel(world) if world.size == 1 else ways[name](world)
