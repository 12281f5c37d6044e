"""The training loop: a generator that yields after the optimizer and the averages have moved."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.couplings import TrainingNoise
from kakusan.model_folder import Model
from kakusan.noise import Draws, Stream, uniform
from kakusan.objectives import LossTerms, Objective
from kakusan.train.distributed import World
from kakusan.train.ema import Ema, EmaProfile
from kakusan.train.feed import Batch, Feed
from kakusan.train.levers import lie_like, uncompiled
from kakusan.train.memory import Portions
from kakusan.train.optim import OptimSettings
from kakusan.train.parallel import Parallel
from kakusan.train.safety import Trouble, first_bad_gradient, first_bad_module, samples_with_bad_gradient, together

PATIENCE = 3
MOST_ROLLBACKS = 8


class TrainingDiverged(ValueError):
    """Losses or gradients keep becoming non-finite, also at lower rates."""


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimizer, and the loss they minimise: `loss(batch)` gives per-sample terms (B,).

    A loss whose samples depend on each other has a method `prepare(batch)` that settles this for the whole batch; what
    it returns is then cut into parts.
    """

    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch], LossTerms]
    settings: OptimSettings = field(default_factory=OptimSettings)


@dataclass(frozen=True)
class TrainStep:
    """What one step did. `step` counts finished steps; `trouble` is set when the step was skipped.

    `terms` are those of the first group, detached; `losses` and `gradient_norms` have one value for each group.
    `gradient_seconds` of `seconds` went into forward and backward passes. `narrowed` is set when memory ran out in this
    step: how many samples pass at once from here on. `wait` seconds went by before `seconds` began, for its samples to
    be read.
    """

    step: int
    samples: int
    losses: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    rate: float
    seconds: float
    terms: LossTerms
    trouble: Trouble | None = None
    rolled_back: bool = False
    gradient_seconds: float = 0.0
    narrowed: int | None = None
    wait: float = 0.0


class DiffusionLoss:
    """The objective of a model on a batch, with condition dropout; all randomness is keyed by the samples' numbers."""

    def __init__(self, model: Model, objective: Objective, *, seed: int) -> None:
        self.model, self.objective, self.seed = model, objective, seed

    def __call__(self, batch: Batch) -> LossTerms:
        model, seeds = self.model, torch.full_like(batch.numbers, self.seed)
        raw = model.raw(batch.x0, batch.raw, Draws(seeds, batch.numbers), batch.partner, batch.text)
        if model.conditioner is not None and raw is not None:
            raw = model.conditioner.drop(raw, uniform(seeds, Stream.DROP_CONDITION, batch.numbers))
        noise = TrainingNoise(self.seed, batch.numbers, indices=batch.indices, labels=batch.raw)
        t = self.objective.time_sampler.draw(model.denoiser.schedule, self.seed, batch.numbers)
        eps = self.objective.coupling.eps(batch.x0, noise) if batch.eps is None else batch.eps
        cond = model.condition(raw)
        if batch.augment is not None:
            cond = dataclasses.replace(cond or Condition(), augment=batch.augment)
        return self.objective.terms(model.denoiser, batch.x0, cond, t, eps)

    def prepare(self, batch: Batch) -> Batch:
        """The batch with its noise dealt out, where the coupling looks at all samples to do that."""
        if self.objective.coupling.independent:
            return batch
        noise = TrainingNoise(self.seed, batch.numbers, indices=batch.indices, labels=batch.raw)
        return dataclasses.replace(batch, eps=self.objective.coupling.eps(batch.x0, noise))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Context in which torch's generators start at `seed`; afterwards the caller's are as they were."""
    where = torch.device(device)
    index = torch.cuda.current_device() if where.type == "cuda" and where.index is None else where.index
    with torch.random.fork_rng(devices=[index] if where.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Trainer:
    """Trains any module on any per-sample loss.

    Args:
        module: what is averaged and saved.
        groups: one for each optimizer, stepped in order on the same batch.
        feed: the batches.
        steps: planned length of the run, for the decay of the rate; may be changed while running.
        profiles: EMA profiles by name, the default first.
        seed: of the run.
        autocast: context for the forward passes (mixed precision).
        snapshot_every: steps between copies in memory of a good state, to roll back to.
        micro_batch: samples that pass through the network at once; None for the whole batch.
        parallel: how several processes share a step; None for one process.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[Group],
        feed: Feed,
        *,
        steps: int,
        profiles: Mapping[str, EmaProfile] | None = None,
        seed: int = 0,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        snapshot_every: int = 200,
        micro_batch: int | None = None,
        parallel: Parallel | None = None,
    ) -> None:
        if steps < 1:
            raise ValueError(f"a run has at least one step, got {steps}")
        self.module, self.groups, self.feed = module, tuple(groups), feed
        self.steps, self.seed, self.autocast = steps, seed, autocast
        self.parallel = Parallel(World()) if parallel is None else parallel
        self.ema = Ema(module, profiles if profiles is not None else {"ema": EmaProfile()})
        tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
        self.optimizers = [group.settings.build(group.parameters, tables) for group in groups]
        self.step = 0
        self.samples = 0
        self.rate_scale = 1.0
        self.rollbacks = 0
        self._bad = 0
        self._moving = False
        self.portions = Portions(micro_batch, device=feed.device)
        self._snapshot_every = snapshot_every
        self._snapshot: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def run(self) -> Iterator[TrainStep]:
        """Train until `steps`; stop whenever the consumer stops.

        Raises:
            TrainingDiverged: several returns to a good state, each at half the rate, did not help.
        """
        while self.step < self.steps:
            # A roll-back moves the place in the data, so reading ahead starts anew there.
            with contextlib.closing(self.feed.read_ahead(self.samples)) as batches:
                for batch in batches:
                    if self._snapshot is None or (self.step % self._snapshot_every == 0 and self._bad == 0):
                        self.keep()
                    taken = dataclasses.replace(self.take(batch), wait=self.feed.waited)
                    yield taken
                    if taken.rolled_back or self.step >= self.steps:
                        break

    def take(self, batch: Batch) -> TrainStep:
        """One step on these samples."""
        began = time.perf_counter()
        self.module.train()
        rate = 0.0
        losses, norms = [], []
        trouble: Trouble | None = None
        first: LossTerms | None = None
        before, gradient_seconds = self.portions.most, 0.0
        for group, optimizers in zip(self.groups, self.optimizers, strict=True):
            rate = group.settings.rate_at(self.step, self.steps) * self.rate_scale
            for part in (part for optimizer in optimizers for part in optimizer.param_groups):
                part["lr"] = rate
            passes = time.perf_counter()
            whole = prepared(group, batch)
            loss, norm, terms = self.portions.run(self._most(batch), functools.partial(self._gradient, group, whole))
            gradient_seconds += time.perf_counter() - passes
            first = terms if first is None else first
            losses.append(loss)
            norms.append(norm)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                trouble = self._diagnose(group, whole, terms, loss)
                _forget(group)
                break
            # A state that is interrupted here is neither the old one nor the new one.
            self._moving = True
            for optimizer in optimizers:
                optimizer.step()
        self.step += 1
        self.samples += self._whole(batch)
        rolled_back = False
        if trouble is None:
            self._bad = 0
            self.ema.update()
        else:
            rolled_back = self._after_trouble(trouble)
        self._moving = False
        assert first is not None
        return TrainStep(
            self.step,
            self.samples,
            tuple(losses),
            tuple(norms),
            rate,
            time.perf_counter() - began,
            first,
            trouble,
            rolled_back,
            gradient_seconds,
            None if self.portions.most == before else self.portions.most,
        )

    def _gradient(self, group: Group, batch: Batch, size: int) -> tuple[float, float, LossTerms]:
        """Gradients of the mean loss of the batch, from parts of `size` samples; none are kept when that fails."""
        _forget(group)
        found: list[LossTerms] = []
        whole = self._whole(batch)
        try:
            with self._randomness():
                cuts = self.parallel.cuts(len(batch), size, whole)
                for rows in cuts:
                    with self.parallel.reduced(group.loss, rows is cuts[-1]):
                        with self.autocast():
                            terms = group.loss(batch.part(rows))
                        # torch takes the mean over the processes, whose parts may be unequal.
                        (terms.loss.sum() * self.parallel.world.size / whole).backward()
                    found.append(LossTerms(terms.loss.detach(), terms.x0_error, terms.t))
        except BaseException:
            _forget(group)
            raise
        clip = group.settings.clip if group.settings.clip > 0.0 else float("inf")
        norm = self.parallel.norm(nn.utils.clip_grad_norm_(group.parameters, clip))
        every = LossTerms(*(torch.cat([getattr(f, name) for f in found]) for name in ("loss", "x0_error", "t")))
        # One transfer for both numbers: on a GPU each would wait for the device.
        loss, norm_value = torch.stack([self.parallel.mean(every.loss, whole).float(), norm.float()]).tolist()
        return loss, norm_value, every

    def _whole(self, batch: Batch) -> int:
        """Samples of this step in all processes."""
        return len(batch) if self.parallel.world.size == 1 else self.feed.size

    def _most(self, batch: Batch) -> int:
        """Samples of this step in the process that has the most, so that all cut their rows alike."""
        return -(-self._whole(batch) // self.parallel.world.size)

    def _randomness(self) -> contextlib.AbstractContextManager[None]:
        """Dropout, and whatever else a network draws from torch's generator, is keyed by the step."""
        rank = self.parallel.world.rank
        return seeded((self.seed * 1_000_003 + self.step + (rank << 40)) % 2**63, self.feed.device)

    def _diagnose(self, group: Group, batch: Batch, terms: LossTerms, loss: float) -> Trouble:
        plain = self.parallel.plain(group.loss)

        def again(part: Batch = batch) -> LossTerms:
            assert plain is not None
            with self._randomness(), self.autocast():
                return plain(part)

        size = self.portions.size(len(batch))

        def beside(bad: list[int]) -> LossTerms:
            """The part that holds the first bad sample: no more samples at once than in training."""
            first = bad[0] // size * size if bad else 0
            return again(batch.part(slice(first, first + size)))

        with uncompiled(self.module):
            if plain is None:
                what = "the gradient" if math.isfinite(loss) else "the loss"
                module = "not looked for, because the weights are in parts"
                bad = (~terms.loss.isfinite()).nonzero().flatten().tolist()
            elif math.isfinite(loss):
                bad = samples_with_bad_gradient(group.parameters, again, batch)
                what, module = "the gradient", first_bad_gradient(self.module, lambda: beside(bad))
            else:
                bad = (~terms.loss.isfinite()).nonzero().flatten().tolist()
                what, module = "the loss", first_bad_module(self.module, lambda: beside(bad))
        schedule = getattr(getattr(self.module, "denoiser", None), "schedule", None)
        levels = () if schedule is None or plain is None else tuple(schedule.log_snr(terms.t[bad]).tolist()[:4])
        names = tuple(self.feed.pictures.name(int(batch.indices[i])) for i in bad[:4])
        return together(Trouble(self.step, names, levels, module, what), self.parallel.world)

    def _after_trouble(self, trouble: Trouble) -> bool:
        self._bad += 1
        if self._bad < PATIENCE:
            return False
        self.rollbacks += 1
        if self.rollbacks > MOST_ROLLBACKS or self._snapshot is None:
            raise TrainingDiverged(
                f"training diverged and {self.rollbacks - 1} returns to a good state, each at half the rate, did "
                "not help. "
                f"Last: {trouble}. Lower the learning rate, turn off reduced precision, or look at the named samples"
            )
        scale, rollbacks = self.rate_scale * 0.5, self.rollbacks
        tensors, facts = self._snapshot
        self._restore(tensors, facts)
        self.rate_scale, self.rollbacks, self._bad = scale, rollbacks, 0
        return True

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Context after which weights, averages, optimizers and counts are again what they were, bit for bit.

        What was learnt about memory stays.
        """
        kept = self._snapshot
        self.keep()
        start = self._snapshot
        assert start is not None
        try:
            yield
        finally:
            self._restore(*start)
            self._snapshot, self._moving = kept, False
            for group in self.groups:
                _forget(group)

    @property
    def troubled(self) -> bool:
        """Whether the last step was skipped, so that this state may be about to be given up, or did not end."""
        return self._bad > 0 or self._moving

    def keep(self) -> None:
        """Hold a copy of this state in memory, to go back to. A saved state is kept too: then a run that was resumed
        goes back to where the uninterrupted one does."""
        tensors = {f"module/{n}": v.detach().clone() for n, v in self.module.state_dict().items()}
        tensors |= {f"ema/{p}/{n}": v.clone() for p, part in self.ema.averages.items() for n, v in part.items()}
        optimizers, facts = self.state()
        tensors |= {f"optimizer/{n}": v.clone() for n, v in optimizers.items()}
        self._snapshot = (tensors, facts)

    def _restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}

        self.module.load_state_dict(under("module/"))
        averages = {profile: under(f"ema/{profile}/") for profile in self.ema.profiles}
        self.load_state(under("optimizer/"), facts, averages)

    def _flat(self) -> list[torch.optim.Optimizer]:
        return [optimizer for optimizers in self.optimizers for optimizer in optimizers]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything but weights and averages that continuing needs: optimizer tensors, and plain numbers."""
        tensors: dict[str, Tensor] = {}
        for i, optimizer in enumerate(self._flat()):
            for j, values in optimizer.state_dict()["state"].items():
                tensors |= {f"{i}/{j}/{key}": value for key, value in values.items()}
        facts = {
            "step": self.step,
            "samples": self.samples,
            "steps": self.steps,
            "rate_scale": self.rate_scale,
            "rollbacks": self.rollbacks,
            "bad": self._bad,
            "ema_updates": self.ema.updates,
        }
        return tensors, facts

    def load_state(
        self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], averages: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Continue from `state()` and saved averages; the module's weights are loaded by the caller."""
        for i, optimizer in enumerate(self._flat()):
            state: dict[int, dict[str, Tensor]] = {}
            owners = [p for part in optimizer.param_groups for p in part["params"]]
            for name, value in tensors.items():
                which, index, key = name.split("/")
                if int(which) == i:
                    state.setdefault(int(index), {})[key] = lie_like(value, owners[int(index)])
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.ema.load(averages, int(facts["ema_updates"]))
        self.step, self.samples, self.steps = int(facts["step"]), int(facts["samples"]), int(facts["steps"])
        self.rate_scale, self.rollbacks = float(facts["rate_scale"]), int(facts["rollbacks"])
        self._bad = int(facts["bad"])


def prepared(group: Group, batch: Batch) -> Batch:
    """The batch with what its samples share, settled before it is cut."""
    prepare: Callable[[Batch], Batch] | None = getattr(group.loss, "prepare", None)
    return batch if prepare is None else prepare(batch)


def _forget(group: Group) -> None:
    for parameter in group.parameters:
        parameter.grad = None
