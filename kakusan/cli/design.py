"""`kakusan design`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeInt, MaybePath
from kakusan.recipes.designs import DESIGNS, DesignSettings, write_drawing
from kakusan.specs import suggestion


@dataclass(frozen=True)
class DesignOptions:
    """Train all models of a published design, one after the other: latent, glide, dalle2 or imagen.

    Each stage is a command that you could type yourself; --dry-run shows them and stops. Stages that are done are left
    alone, and the same command goes on where it stopped. Afterwards `kakusan generate OUT "TEXT"` draws with all of
    them together.

    Args:
        name: latent (CLIP, an autoencoder and a model of its latents: the quickest), glide (texts, and painting holes
            by a text), dalle2 (CLIP, a prior and a decoder of its vectors) or imagen (a ready reader of texts, and a
            cascade).
        data: a folder or zip file of pictures with captions, or an embedded set.
        size: side of the pictures that are drawn in the end.
        base: side of those drawn first, and of those that CLIP sees; half of --size when not given.
        minutes: for all stages together.
        width: channels of the first model; the one that enlarges has half as many.
        encoder: for latent, glide and imagen, folder of a CLIP or T5 that reads the texts.
        options: further options of kakusan train for every model, as in num=4000 threads=2; with the name of a stage
            before them, of that stage's command, as in base.dropout=0.1.
        only: stages to train, by name, when not all.
        dry_run: show the commands and stop.
        out: folder of the design.
    """

    name: Annotated[str, tyro.conf.Positional]
    data: str = "flowers:words"
    size: int = 32
    base: MaybeInt = None
    minutes: float = 60.0
    width: int = 48
    encoder: MaybePath = None
    options: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    out: Path = Path("runs/design")


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(DesignOptions, argv, verb="design")
    if options.name not in DESIGNS:
        near = suggestion(options.name, list(DESIGNS))
        raise ValueError(f"no design {options.name!r}{near}; there are {', '.join(DESIGNS)}")
    design = DESIGNS[options.name]
    more, apart = _shared_out(options.options)
    settings = DesignSettings(
        data=options.data,
        out=options.out,
        size=options.size,
        base=options.base,
        minutes=options.minutes,
        width=options.width,
        encoder=options.encoder,
        more=more,
        apart=apart,
    )
    stages = list(design.stages(settings))
    names = [stage.name for stage in stages]
    for name in (*options.only, *apart):
        if name not in names:
            raise ValueError(
                f"{options.name} has no stage {name!r}{suggestion(name, names)}; it has {', '.join(names)}"
            )
    print(f"{options.name} ({design.paper}): {len(stages)} stages in {options.out}")
    from kakusan.cli import main as run

    for number, stage in enumerate(stages, start=1):
        words = stage.arguments(settings)
        print(f"\n{number}. {stage.name}: {stage.does}\n   kakusan {shlex.join(words)}", flush=True)
        # A stage writes its page when it has come to its end, and not when it was stopped.
        done = options.out / stage.name / "report.html"
        if done.is_file():
            print(f"   done already: {done}")
        elif not options.dry_run and stage.name in (options.only or names):
            code = run(words)
            if code or not done.is_file():
                print(f"\n{stage.name} has not come to its end; the same command goes on from there")
                return code
    if options.dry_run:
        return 0
    left = [name for name in names if not (options.out / name / "report.html").is_file()]
    if left:
        print(f"\nstill to be trained: {', '.join(left)}")
    else:
        write_drawing(options.name, options.out)
        print(f'\nnext    kakusan generate {options.out} "TEXT"')
        if design.drawing.paint:
            print(f'        kakusan transform {options.out / design.drawing.paint} PICTURE --mask MASK --label "TEXT"')
    return 0


def _shared_out(options: Sequence[str]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """(words for every model, words for single stages by name)."""
    every: tuple[str, ...] = ()
    apart: dict[str, tuple[str, ...]] = {}
    for option in options:
        name, found, value = option.partition("=")
        stage, dot, rest = name.rpartition(".")
        if not found or not rest or (dot and not stage):
            raise ValueError(f"--options takes names and values, as in num=4000 or base.dropout=0.1; got {option!r}")
        words = (f"--{rest}", value)
        if stage:
            apart[stage] = (*apart.get(stage, ()), *words)
        else:
            every = (*every, *words)
    return every, apart
