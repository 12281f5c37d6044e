"""Measuring the loss inside a training run: on fixed pairs of noise and time, of training and of held-out pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from kakusan.data.source import Pictures
from kakusan.model_folder import Model
from kakusan.train.held_out import MEASURED_AT_ONCE, FixedPairs
from kakusan.train.memory import Portions
from kakusan.train.sources import coupled

if TYPE_CHECKING:
    from kakusan.train.run import TrainingRun


class Measuring:
    """What a run measures its loss on, and the best that it has found.

    Args:
        run: the training run.
        at_once: pairs that fit into memory at once, None where nobody said.
    """

    def __init__(self, run: TrainingRun, at_once: int | None) -> None:
        self.run = run
        self.portions = Portions(at_once, device=run.device, what="measuring")
        # The smallest held-out loss, and its step.
        self.best: tuple[float, int] | None = None
        self._pairs: dict[str, FixedPairs] = {}

    def fixed_pairs(self, pictures: Pictures) -> FixedPairs:
        """The pairs to measure on, of the training or of the held-out pictures."""
        run = self.run
        mine = pictures is run.training
        return FixedPairs(
            pictures,
            coupled(run.objective, pictures),
            seed=run.config.run.seed,
            device=run.device,
            partners=run.pairing.training if mine else run.pairing.held_out,
            texts=run.pairing.texts[not mine],
        )

    def begin(self) -> None:
        """Choose the pairs, before the first step."""
        self._pairs = {"training": self.fixed_pairs(self.run.training)}
        if len(self.run.held_out):
            self._pairs["held-out"] = self.fixed_pairs(self.run.held_out)

    def measure(self, model: Model, average: Mapping[str, Tensor]) -> None:
        """Measure the model with these weights, and log what is found."""
        run = self.run
        for kind, pairs in self._pairs.items():
            count = self.portions.size(MEASURED_AT_ONCE)
            report = run.fitting(self.portions, count, partial(pairs.measure_cut, model, average))
            run.log.write(kind, run.trainer.step, **report.record())
            better = self.best is None or report.loss < self.best[0]
            if kind == "held-out" and better and math.isfinite(report.loss):
                self.best = (report.loss, run.trainer.step)
