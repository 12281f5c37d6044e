"""Watching distances inside a training run: when, with which checkpoint, and what is said of it at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from kakusan.autoencoders.latents import in_pixels
from kakusan.config import RunSettings
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.watching import KIND, Point, Verdict, Watcher, WatchPlan, check_names, enough, points_of, verdict
from kakusan.model_folder import Model, ModelFacts, model_hash
from kakusan.train.memory import Portions
from kakusan.train.metrics_log import read_records
from kakusan.train.texts import prompts_for
from kakusan.train.trainer import seeded

if TYPE_CHECKING:
    from kakusan.train.run import TrainingRun

AT_ONCE = 64
# Where `kakusan eval` keeps its judges too.
JUDGES = Path("eval") / "spaces"
# Seconds on one core here (CPU time, docs/log.md): networks that learn before they judge, and judging in one space.
LEARNING = {"self-supervised": 24.0, "classifier": 26.0}
JUDGING = 0.7
# Of the run's time, where nobody said how often; less often than FEWEST_POINTS is no curve, and then there is none.
SHARE = 0.03
FEWEST_POINTS, MOST_POINTS = 3, 8
# Seconds; shorter runs are not watched unless asked, and are not kept waiting by measuring what it would take.
TOO_SHORT = 120.0


class Draw(Protocol):
    """Samples of a model with some weights in place of its own: `previews.draw_watched`."""

    def __call__(
        self,
        model: Model,
        facts: ModelFacts,
        weights: Mapping[str, Tensor] | None,
        labels: Tensor | None,
        *,
        plan: WatchPlan,
        num: int,
        batch: int,
        origin: Mapping[str, str],
        prompts: Sequence[str] | None = None,
    ) -> PictureSet: ...


def plan_of(settings: RunSettings) -> WatchPlan:
    """What a run measures.

    Raises:
        ValueError: too few samples, or no space.
    """
    return WatchPlan(num=settings.watch_num, seed=settings.seed, spaces=settings.watch_spaces)


def opening(plan: WatchPlan) -> float:
    """Seconds, about, until a plan's feature spaces are there."""
    return sum(LEARNING.get(name, 0.0) for name in plan.spaces)


def how_often(seconds: float, *, once: float, each: float) -> int:
    """Points of a run whose settings leave it open: as many as take three percent of its time, at most eight, and none
    where that would be fewer than three.

    Args:
        seconds: the run takes without watching.
        once: seconds before the first point.
        each: seconds of a point.
    """
    affordable = int((SHARE * seconds - once) / max(each, 1e-6))
    return 0 if affordable < FEWEST_POINTS else min(MOST_POINTS, affordable)


class Watching:
    """The points of a run: measured at checkpoints, kept in its log, read again when it is resumed.

    Whatever fails here is said and logged once and ends the watching, never the run.

    Args:
        run: the run.
        draw: how samples are drawn.
    """

    def __init__(self, run: TrainingRun, draw: Draw) -> None:
        self.run, self.draw = run, draw
        cut = run.config.engine.micro_batch
        self.portions = Portions(None if cut is None else 4 * cut, device=run.device, what="watching")
        self.points: list[Point] = []
        if run.config.run.watch != 0:
            check_names(plan_of(run.config.run))
        few = enough(len(run.training), len(run.held_out))
        self.off = None if few is None else f"there are too few pictures: {few}"
        if run.config.data.pair is not None:
            self.off = "a run on pairs draws from given pictures; its previews show them beside the originals"
        self._said = False
        self._watcher: Watcher | None = None
        self._owed = False
        self.once = 0.0

    def due(self, moment: bool) -> bool:
        """Whether to measure now. A state that may be given up is not measured; the moment is made up for after it."""
        self._owed = self._owed or moment
        if not self._owed or self.run.trainer.troubled:
            return False
        self._owed = False
        return self.run.world.decide(lambda: self.off is None)

    def reload(self) -> None:
        """Take up the points of the log, after a start or a step back."""
        if not self.run.world.main:
            return
        self.points = points_of(read_records(self.run.folder.metrics))
        if self.points:
            self._mark()

    def resume(self, moment: bool) -> None:
        """Measure what was missed when the run ended between a checkpoint and its point."""
        run = self.run
        if self.off is not None and run.config.run.watch:
            self.give_up(self.off)
        known = run.world.decide(lambda: [p.step for p in self.points])
        if moment and run.trainer.step not in known and self.due(moment):
            self.measure()

    def measure(self) -> None:
        """The point of this step, whose checkpoint has been written."""
        model, average = self.run.parallel.shown(self.run.trainer)
        self.run.world.alone(lambda: self._alone(model, average))

    def _alone(self, model: Model, average: Mapping[str, Tensor]) -> None:
        run = self.run
        threads = torch.get_num_threads()
        try:
            # Whatever a judge draws at random while it learns, the run's own numbers stay where they were.
            with seeded(run.config.run.seed, run.device):
                self._point(model, average)
        except Exception as error:
            # A curve is not worth a run.
            self.give_up(str(error) or type(error).__name__)
        finally:
            torch.set_num_threads(threads)

    def _point(self, model: Model, average: Mapping[str, Tensor]) -> None:
        run, step = self.run, self.run.trainer.step
        began = time.perf_counter()
        if self._watcher is None:
            folder = run.folder.path / JUDGES
            plan = plan_of(run.config.run)
            self._watcher = Watcher(in_pixels(run.training), in_pixels(run.held_out), plan, folder=folder, say=run.say)
            self.once = time.perf_counter() - began
            run.say(f"watching {', '.join(plan.spaces)}: ready in {self.once:.1f} s")
            began = time.perf_counter()
        watcher = self._watcher
        facts, known = run.facts(), model_hash(run.folder.checkpoint(step))
        origin = {"model": known, "weights": next(iter(run.trainer.ema.profiles))}
        reads = model.conditioner is not None and model.conditioner.reads_texts
        prompts = prompts_for(run.training, run.held_out, watcher.num) if reads else None

        def drawn(at_once: int) -> PictureSet:
            return self.draw(
                model,
                facts,
                average,
                watcher.labels(),
                plan=watcher.plan,
                num=watcher.num,
                batch=at_once,
                origin=origin,
                prompts=prompts,
            )

        samples = run.fitting(self.portions, min(AT_ONCE, watcher.num), drawn)
        point = watcher.measure(samples, step=step, model=known, began=began)
        run.log.write(KIND, step, **point.line())
        self.points = [p for p in self.points if p.step != step] + [point]
        self._mark()
        run.say(f"watching: {point.text()}")

    def _mark(self) -> None:
        found, steps = self.verdict(), self.run.folder.steps()
        if found is not None and found.best.step in steps:
            self.run.folder.mark_best(found.best.step)

    def give_up(self, reason: str) -> None:
        """Watch no more in this session."""
        self.off = reason
        if self._said:
            return
        self._said = True
        self.run.say(f"watching is off: {reason}; the run goes on")
        self.run.log.write("trouble", self.run.trainer.step, message=f"watching is off: {reason}", rolled_back=False)

    def verdict(self) -> Verdict | None:
        """Which checkpoint is best."""
        return verdict(self.points, self.run.folder.steps())

    def conclude(self) -> None:
        """Say at the end which checkpoint is best."""
        found = self.verdict()
        if found is None:
            return
        for line in found.lines():
            self.run.say(line)
        if found.best.step != found.last.step:
            self.run.say(f"  kakusan sample {self.run.folder.path / 'best'} --num 16 draws from it")
