"""`kakusan train-clip`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import layered, parse
from kakusan.config import MaybePath, to_toml
from kakusan.train.clip_settings import ClipConfig

OUT = "runs/clip"


@dataclass(frozen=True)
class TrainClipOptions:
    """Train CLIP on pictures with captions: an image tower and a text tower that agree on what belongs together.

    Its text tower then reads prompts for a diffusion model, and its vectors of pictures can be conditions. Retrieval
    and zero-shot accuracy on held-out pictures, the gap between pictures and texts, and a map of the space stand in the
    folder's report.html.

    Settings come from the defaults, then the file, then the command line.

    Args:
        out: a new folder, or that of a training that was stopped.
        config: TOML file of settings.
        print_config: show the settings that would be used, as TOML, and stop.
    """

    out: Path = Path(OUT)
    config: MaybePath = None
    print_config: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    settings: ClipConfig = field(default_factory=ClipConfig)


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    base = TrainClipOptions(settings=layered(ClipConfig(), argv, folder=OUT))
    options = parse(TrainClipOptions, argv, verb="train-clip", default=base)
    if options.print_config:
        print(to_toml(options.settings), end="")
        return 0
    from kakusan.tasks.train_clip import train_clip

    train_clip(options.settings, out=options.out, say=print)
    return 0
