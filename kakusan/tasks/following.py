"""A run seen from outside: which checkpoints are new, and their distances to real pictures."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from kakusan import runtime
from kakusan.files import write_text
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.watching import KIND, Point, Watcher, WatchPlan, points_of, verdict
from kakusan.model_folder import CorruptModel, model_hash
from kakusan.pipeline import load
from kakusan.report.watching import write_watch_page
from kakusan.run_folder import RunFolder
from kakusan.train.memory import Portions
from kakusan.train.metrics_log import read_records
from kakusan.train.previews import draw_watched
from kakusan.train.reopen import reopen_parts
from kakusan.train.texts import prompts_for
from kakusan.train.watching import AT_ONCE, JUDGES

FILE, LOCK = "watch.jsonl", ".watch.lock"


class Follower:
    """A run seen from outside: nothing of it is changed but `watch.*`, `best` and its judges.

    Args:
        run: folder of the run.
        plan: what to measure.
        device: where to draw samples.
        source: where the data are now, when they have moved.
    """

    def __init__(self, run: Path, plan: WatchPlan, *, device: str, source: str | None) -> None:
        self.folder, self.plan, self.source = RunFolder(run), plan, source
        self.device = runtime.pick_device(device)
        self.portions = Portions(device=self.device, what="watching")
        self._watcher: Watcher | None = None

    def points(self) -> list[Point]:
        """What has been measured by this plan, here and by the run itself."""
        lines = [*read_records(self.folder.metrics), *read_records(self.folder.path / FILE)]
        return points_of(line for line in lines if line.get("plan") == self.plan.hash)

    def missing(self) -> list[int]:
        """Steps whose checkpoint has not been measured; that of the untrained network is left out."""
        known, found = {(point.step, point.model) for point in self.points()}, []
        for step in self.folder.steps():
            with contextlib.suppress(OSError):
                if step and (step, model_hash(self.folder.checkpoint(step))) not in known:
                    found.append(step)
        return found

    def measure(self, step: int, say: Callable[[str], None]) -> Point | None:
        """The point of a checkpoint; None when it was thinned out meanwhile."""
        began = time.perf_counter()
        try:
            pipeline = load(self.folder.checkpoint(step), device=self.device)
        except (CorruptModel, OSError, ValueError):
            if self.folder.checkpoint(step).is_dir():
                raise
            return None
        if self._watcher is None:
            self._parts = reopen_parts(pipeline, self.source)
            self._watcher = Watcher(*self._parts, self.plan, folder=self.folder.path / JUDGES, say=say)
            began = time.perf_counter()
        watcher = self._watcher
        prompts = prompts_for(*self._parts, watcher.num) if pipeline.reads_texts else None

        def draw(at_once: int) -> PictureSet:
            return draw_watched(
                pipeline.model,
                pipeline.facts,
                None,
                watcher.labels(),
                plan=self.plan,
                num=watcher.num,
                batch=at_once,
                origin={"model": pipeline.model_hash, "weights": pipeline.weights},
                prompts=prompts,
            )

        samples = self.portions.run(min(AT_ONCE, watcher.num), draw)
        return watcher.measure(samples, step=step, model=pipeline.model_hash, began=began)

    def open(self) -> IO[str]:
        """`watch.jsonl` to append to, without what a watcher that was killed left half written."""
        path = self.folder.path / FILE
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_records(path)))
        return open(path, "a", encoding="utf-8")

    def show(self) -> None:
        """`watch.html` and `watch.png`; and the best checkpoint marked, unless the run does so itself."""
        points, steps = self.points(), self.folder.steps()
        write_watch_page(points, self.folder.path, kept=steps)
        found = verdict(points, steps)
        own = any(record["kind"] == KIND for record in read_records(self.folder.metrics))
        if found is not None and not own:
            with contextlib.suppress(ValueError):
                self.folder.mark_best(found.best.step)
