"""`kakusan inpaint`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.cli.restoring import RestoreOptions, run_restoration
from kakusan.config import MaybeFloat, MaybeText


@dataclass(frozen=True, kw_only=True)
class InpaintOptions(RestoreOptions):
    """Paint parts of a picture anew: what is white in the mask; the rest stays as it is, bit for bit.

    Args:
        mask: a picture of the same size, white where to repaint.
        mask_fit: crop, pad or stretch a mask of another size; as --fit when not given.
        seam: pixels over which what is painted is brought to meet what is known, inside the hole only. 0, a hard
            border, when not given, and 2 for a model of latents.
    """

    mask: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MASK")]
    mask_fit: MaybeText = None
    seam: MaybeFloat = None


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(InpaintOptions, argv, verb="inpaint")
    from kakusan.tasks.restore_problems import Inpaint

    return run_restoration(options, Inpaint(options.mask, options.mask_fit, options.seam))
