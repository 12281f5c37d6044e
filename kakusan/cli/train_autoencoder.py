"""`kakusan train-autoencoder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from kakusan.cli.options import layered, parse
from kakusan.config import MaybePath, to_toml
from kakusan.train.autoencoder_settings import AutoencoderConfig

if TYPE_CHECKING:
    from kakusan.train.autoencoder import AutoencoderRun
    from kakusan.train.trainer import TrainStep

OUT = "runs/autoencoder"


@dataclass(frozen=True)
class TrainAutoencoderOptions:
    """Train an autoencoder of your own pictures, for diffusion on their latents.

    Its health is measured on held-out pictures: reconstruction, KL and use of each channel, range of the latents,
    margin of the discriminator. The mean and the deviation of the latents are measured and stored with it. The same
    command in the same folder goes on where it stopped.

    Settings come from the defaults, then the file, then the command line.

    Args:
        out: folder of the training.
        config: TOML file of settings.
        print_config: show the settings that would be used, as TOML, and stop.
    """

    out: Path = Path(OUT)
    config: MaybePath = None
    print_config: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    settings: AutoencoderConfig = field(default_factory=AutoencoderConfig)


class Progress:
    """A line now and then."""

    def __init__(self) -> None:
        self._errors: list[float] = []
        self._seconds: list[float] = []

    def __call__(self, step: TrainStep, run: AutoencoderRun) -> None:
        """After every step."""
        from kakusan.train.estimate import duration

        self._seconds.append(step.seconds + step.wait)
        if step.trouble is None:
            self._errors.append(float(step.terms.x0_error.mean()))
        total = max(1, run.trainer.steps)
        if step.step != 1 and step.step * 20 // total == (step.step - 1) * 20 // total:
            return
        # Features learn before the first step, and measuring comes in between: the pace is that of the last steps.
        pace = sum(self._seconds) / len(self._seconds)
        error = f"{(sum(self._errors) / len(self._errors)) ** 0.5:.4f}" if self._errors else "not finite"
        print(
            f"step {step.step}/{total}  error {error}  loss {step.losses[0]:.4f}  "
            f"{run.trainer.feed.size / max(pace, 1e-9):.0f} images/s  {duration(pace * (total - step.step))} left",
            flush=True,
        )
        self._errors.clear()
        self._seconds.clear()


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    base = TrainAutoencoderOptions(settings=layered(AutoencoderConfig(), argv, folder=OUT))
    options = parse(TrainAutoencoderOptions, argv, verb="train-autoencoder", default=base)
    if options.print_config:
        print(to_toml(options.settings), end="")
        return 0
    from kakusan.runtime import give_way
    from kakusan.tasks.train_autoencoder import train_autoencoder

    give_way()
    train_autoencoder(options.settings, options.out, say=print, on_step=Progress())
    return 0
