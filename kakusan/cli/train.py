"""`kakusan train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from kakusan.cli.options import layered, parse
from kakusan.config import MaybePath, MaybeText, TrainConfig, to_toml
from kakusan.recipes import RECIPES
from kakusan.runtime import give_way

if TYPE_CHECKING:
    from kakusan.train.run import TrainingRun
    from kakusan.train.trainer import TrainStep


@dataclass(frozen=True)
class TrainOptions:
    """Train a diffusion model on your own pictures.

    Give a folder (plain, with class sub-folders, or with metadata.jsonl or .csv), a zip file, or an embedded set. The
    same command in the same folder goes on where it stopped; Ctrl-C writes a checkpoint first. Settings come from the
    defaults, then the recipe, then the file, then the command line.

    Args:
        out: folder of the run.
        config: TOML file of settings.
        recipe: named settings to start from.
        init_from: run or model to start from; says which tensors were kept, resized or new.
        print_config: show the settings that would be used, as TOML, and stop.
        dry_run: estimate time and memory, and stop.
    """

    out: Path = Path("runs/mine")
    config: MaybePath = None
    recipe: MaybeText = None
    init_from: MaybePath = None
    print_config: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    settings: TrainConfig = field(default_factory=TrainConfig)


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(TrainOptions, argv, verb="train", default=TrainOptions(settings=base_settings(argv)))
    if options.print_config:
        print(to_toml(options.settings), end="")
        return 0
    waiting = give_way()
    from kakusan.train.joining import watched

    with watched():
        return run_training(options, waiting)


def run_training(options: TrainOptions, waiting: bool) -> int:
    """Train under these options; returns the exit code."""
    trained(options, waiting)
    return 0


def trained(options: TrainOptions, waiting: bool) -> TrainingRun:
    """The run under these options, trained to its end or until a signal, or only looked at in a dry run."""
    from kakusan.train.run import TrainingRun

    progress = Progress()
    if waiting:
        progress.say("this machine is busy with other work: threads that wait will sleep")
    run = TrainingRun(options.settings, options.out, init_from=options.init_from, say=progress.say, on_step=progress)
    classes = f", {len(run.spec.classes)} classes" if run.spec.classes else ""
    size = " x ".join(map(str, run.spec.size))
    run.say(
        f"{len(run.training)} pictures ({len(run.held_out)} held out), {run.spec.channels} x {size}{classes}; "
        f"{run.device}, {run.precision.name}"
    )
    if run.trainer.step == 0:
        run.say(run.estimate().text(options.settings.run.batch))
    if options.dry_run:
        return run
    path = run.run()
    progress.close()
    if run.stop is None and run.world.main:
        following = f"sample {options.out} --num 16"
        if options.settings.data.pair is not None:
            following = f"transform {options.out} IMAGE --original"
        elif options.settings.vectors.prior:
            following = f'generate DECODER "TEXT" --prior {options.out}'
        elif options.settings.text.encoder is not None or options.settings.vectors.clip is not None:
            following = f'generate {options.out} "TEXT"'
        print(f"model   {path}\nreport  {run.folder.path / 'report.html'}\nnext    kakusan {following}")
    return run


def base_settings(argv: Sequence[str], folder: str | None = "runs/mine") -> TrainConfig:
    """Defaults < recipe < file (or the stored settings of the run being continued, in --out or `folder`)."""
    return layered(TrainConfig(), argv, folder=folder, recipes=RECIPES)


class Progress:
    """A live bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        import sys

        from tqdm import tqdm

        self._bar: tqdm[object] | None = None
        self._live = sys.stderr.isatty()
        self._make = tqdm
        self._loss: float | None = None

    def say(self, line: str) -> None:
        """A line of text above the bar."""
        if self._bar is not None and self._live:
            self._bar.write(line)
        else:
            print(line, flush=True)

    def __call__(self, step: TrainStep, run: TrainingRun) -> None:
        """After every step."""
        value = step.losses[0]
        if step.trouble is None:
            self._loss = value if self._loss is None else 0.98 * self._loss + 0.02 * value
        speed = run.config.run.batch / max(step.seconds, 1e-9)
        if self._live:
            if self._bar is None:
                self._bar = self._make(total=run.trainer.steps, initial=step.step - 1, unit="step", dynamic_ncols=True)
            self._bar.total = run.trainer.steps
            self._bar.set_postfix_str(f"loss {self._loss or value:.4f}, {speed:.0f} images/s", refresh=False)
            self._bar.update(step.step - self._bar.n)
        elif step.step == 1 or step.step * 20 // run.trainer.steps != (step.step - 1) * 20 // run.trainer.steps:
            from kakusan.train.estimate import duration

            # The first step alone is timed by itself: before it the run measured, drew and saved. Judges learn once.
            pace = step.seconds if step.step == 1 else (run.elapsed() - run.watching.once) / step.step
            left = (run.trainer.steps - step.step) * pace
            print(
                f"step {step.step}/{run.trainer.steps}  loss {self._loss or value:.4f}  {speed:.0f} images/s  "
                f"{duration(left)} left",
                flush=True,
            )

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
