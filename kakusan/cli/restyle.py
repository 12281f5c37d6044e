"""`kakusan restyle`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.editing import ModelOptions
from kakusan.cli.options import parse
from kakusan.config import MaybeFloat, MaybeInt, MaybePath, MaybeText


@dataclass(frozen=True)
class RestyleOptions:
    """Begin a picture as one class and finish it as another; or do so with a picture of your own.

    Without IMAGE samples are drawn: the first --switch steps follow --from-label, the others --to-label. With IMAGE the
    picture is taken back to noise by --strength and finished as --to-label. Without --switch or --strength every one of
    them is shown.

    Args:
        run: a run, checkpoint or model folder.
        image: a picture of the model's size.
        to_label: the class to go to.
        from_label: the class to begin with, or of the picture ("no class" when not given).
        switch: without IMAGE: steps under the first class.
        strength: with IMAGE: 0 gives it back, 1 keeps the least.
        method: with IMAGE: edit-friendly, flow-edit, fixed-point, edict, bdia, ddim, or noise.
        source_scale: with IMAGE: guidance scale on the way to noise; guidance options act on the way back.
        num: without IMAGE: samples, one row each.
        sampler: without IMAGE, and of --method noise.
        fit: crop, pad or stretch a picture of another size; it is refused when not given.
        out: a .png, or a folder for single files.
        video: also write all steps as .gif, .webp or .mp4.
    """

    run: Annotated[Path, tyro.conf.Positional]
    image: Annotated[MaybePath, tyro.conf.Positional] = None
    to_label: str = ""
    from_label: MaybeText = None
    switch: MaybeInt = None
    strength: MaybeFloat = None
    method: MaybeText = None
    source_scale: float = 1.0
    num: MaybeInt = None
    sampler: str = "dpmpp-2m"
    fit: MaybeText = None
    out: Path = Path("restyled.png")
    video: MaybePath = None
    model: ModelOptions = field(default_factory=ModelOptions)


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(RestyleOptions, argv, verb="restyle")
    from kakusan.tasks.restyle import restyle_picture, restyle_samples

    if not options.to_label:
        raise ValueError("name the class to go to, as in: kakusan restyle runs/mine --from-label rose --to-label daisy")
    shared = {
        "to_label": options.to_label,
        "sampler": options.sampler,
        "video": options.video,
        **options.model.arguments(options.run),
    }
    if options.image is None:
        if options.strength is not None or options.method is not None:
            raise ValueError("--strength and --method are for a given picture; name one, or use --switch for samples")
        if options.from_label is None:
            raise ValueError("samples begin as some class: give --from-label, or a picture to start from")
        lines = restyle_samples(
            options.run,
            options.out,
            from_label=options.from_label,
            switch=options.switch,
            num=4 if options.num is None else options.num,
            **shared,
        )
    else:
        if options.switch is not None or options.num is not None:
            raise ValueError("--switch and --num are for samples; a given picture takes --strength")
        lines = restyle_picture(
            options.run,
            options.image,
            options.out,
            from_label=options.from_label,
            strength=options.strength,
            method=options.method or "edit-friendly",
            source_scale=options.source_scale,
            fit=options.fit,
            **shared,
        )
    for line in lines:
        print(line)
    return 0
