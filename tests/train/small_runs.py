"""Tiny folders of pictures and tiny runs, shared by the tests of training, of tasks and of the command line."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from kakusan.config import TrainConfig, merge
from kakusan.train import previews
from kakusan.train.run import TrainingRun
from kakusan.train.trainer import TrainStep


def draw_pictures(
    folder: Path, *, classes: Sequence[str] = ("blue", "red"), each: int = 12, size: int = 8, seed: int = 0
) -> Path:
    """A folder with one sub-folder for each class; the classes differ in colour, the pictures in a bright square."""
    generator = np.random.default_rng(seed)
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            array = np.full((size, size, 3), 20, np.uint8)
            array[..., index % 3] = 160
            row, column = generator.integers(0, size - 2, 2)
            array[row : row + 3, column : column + 3] = 250 - 3 * number
            Image.fromarray(array).save(folder / name / f"{number:02d}.png")
    return folder


def settings(source: object, **sections: dict[str, Any]) -> TrainConfig:
    """A configuration that trains in a second; `sections` replace single values."""
    base = {
        "data": {"source": str(source)},
        "model": {"width": 8, "depth": 1},
        "optim": {"rate": 3e-3, "warmup": 3},
        "run": {
            "steps": 6,
            "batch": 8,
            "threads": 1,
            "device": "cpu",
            "precision": "fp32",
            "measurements": 0,
            "previews": 0,
            "checkpoints": 0,
            "snapshots": 0,
        },
    }
    config = merge(TrainConfig(), base)
    return merge(config, sections)


def start(
    config: TrainConfig,
    out: Path,
    *,
    stop_at: int | None = None,
    say: Callable[[str], None] | None = None,
    init_from: Path | None = None,
    prepare: Callable[[TrainingRun], None] | None = None,
    report: bool = False,
) -> TrainingRun:
    """Train in this process; with `stop_at` as if a signal had come at that step. Its page is written only with
    `report`, and previews are drawn in few steps: both would take more time than these runs."""

    def on_step(step: TrainStep, run: TrainingRun) -> None:
        if step.step == stop_at:
            run.stop = "a test"

    run = TrainingRun(
        config, out, init_from=init_from, say=say if say is not None else lambda line: None, on_step=on_step
    )
    if prepare is not None:
        prepare(run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(previews.draw.__kwdefaults__, num_steps=4))
        if not report:
            stack.enter_context(mock.patch("kakusan.train.run.end_report"))
        run.run()
    return run
