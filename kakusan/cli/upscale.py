"""`kakusan upscale`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kakusan.cli.options import parse
from kakusan.cli.restoring import RestoreOptions, run_restoration


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions(RestoreOptions):
    """Enlarge a picture whose sides are those of the model over --factor.

    Args:
        factor: 2, 4 or another divisor of the model's sides.
        kernel: by which the picture was shrunk: box, bicubic or lanczos.
    """

    factor: int = 2
    kernel: str = "box"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(UpscaleOptions, argv, verb="upscale")
    from kakusan.tasks.restore_problems import Upscale

    return run_restoration(options, Upscale(options.factor, options.kernel))
