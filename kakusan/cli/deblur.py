"""`kakusan deblur`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.cli.restoring import RestoreOptions, run_restoration
from kakusan.config import MaybeFloat, MaybePath


@dataclass(frozen=True, kw_only=True)
class DeblurOptions(RestoreOptions):
    """Sharpen a blurred picture; say how it was blurred in one of three ways.

    Args:
        blur: standard deviation of a Gaussian blur, in pixels.
        motion: length in pixels and angle in degrees of a straight motion.
        kernel: a picture of the blur of one white point.
    """

    blur: MaybeFloat = None
    motion: Annotated[tuple[int, float] | None, tyro.conf.arg(metavar="LENGTH ANGLE", help_behavior_hint="")] = None
    kernel: MaybePath = None


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(DeblurOptions, argv, verb="deblur")
    from kakusan.tasks.restore_problems import Deblur

    return run_restoration(options, Deblur(options.blur, options.motion, options.kernel))
