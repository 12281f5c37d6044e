"""`kakusan likelihood`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeInt, MaybePath, MaybeText


@dataclass(frozen=True)
class LikelihoodOptions:
    """Bits per dimension of pictures under a trained model, with a standard error, term by term.

    Three ways, each an upper bound of -log2 P: the variational bound in continuous time, that of a chain of T steps,
    and the probability flow of dequantised pictures.

    Args:
        run: a run, checkpoint or model folder.
        data: held-out (of the run itself), or a folder, zip file or embedded set of pictures as the model knows them.
        method: bound, discrete or flow.
        num: pictures; all when not given.
        steps: T of discrete (1000), or of the flow's solver (64).
        draws: evaluations for each picture (16), or importance draws of the flow (1).
        decoder: of the bounds: categorical or gaussian.
        variance: of the reverse steps of discrete: small, large or learned.
        dequantisation: of the flow: truncated-normal or uniform.
        divergence: of the flow: hutchinson or exact.
        probes: directions of hutchinson.
        weights: an EMA profile of the run, or raw.
        seed: of the first picture.
        batch: pictures computed at once.
        device: auto, cpu, cuda.
        out: a .json file for the whole record.
    """

    run: Annotated[Path, tyro.conf.Positional]
    data: str = "held-out"
    method: str = "bound"
    num: MaybeInt = None
    steps: MaybeInt = None
    draws: MaybeInt = None
    decoder: str = "categorical"
    variance: str = "small"
    dequantisation: str = "truncated-normal"
    divergence: str = "hutchinson"
    probes: int = 1
    weights: MaybeText = None
    seed: int = 0
    batch: int = 64
    device: str = "auto"
    out: MaybePath = None


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(LikelihoodOptions, argv, verb="likelihood")
    from kakusan.tasks.likelihood import measure

    for line in measure(
        options.run,
        data=options.data,
        method=options.method,
        num=options.num,
        weights=options.weights,
        device=options.device,
        batch=options.batch,
        seed=options.seed,
        out=options.out,
        steps=options.steps,
        draws=options.draws,
        decoder=options.decoder,
        variance=options.variance,
        dequantisation=options.dequantisation,
        divergence=options.divergence,
        probes=options.probes,
    ):
        print(line, flush=True)
    return 0
