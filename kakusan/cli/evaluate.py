"""`kakusan eval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeFloat, MaybePath, MaybeText


@dataclass(frozen=True)
class EvaluateOptions:
    """Set samples beside real pictures: distances in several feature spaces, faults, copies, cost, and a page.

    Writes eval.json, where every number stands with its error and all it depends on, and report.html. Real pictures
    that the run was trained on and those it held out are opened as it opened them.

    Args:
        run: a run, checkpoint, model folder or rival; or a folder of pictures made by any tool, with --data.
        data: the real pictures, where they are not those of the run: a folder, zip file or embedded set.
        num: samples. Twice as many real pictures are needed.
        seed: of the samples; 0 and 1 share none.
        spaces: feature spaces: classifier, self-supervised, random, patches; inception and dinov2 where their weights
            are on the disk. Those that suit the pictures when not given.
        distances: frechet, kernel, sliced, precision, recall, density, coverage and others. All when not given.
        sampler: as of kakusan sample; dpmpp-2m when not given.
        steps: of the sampler.
        guidance_scale: 1 when not given.
        weights: an EMA profile of the run, or raw.
        batch: samples at once.
        device: auto, cpu, cuda.
        out: folder of the results; RUN/eval when not given.
        against: the eval.json of another evaluation (or its folder): say which differences are beyond the error.
    """

    run: Annotated[Path, tyro.conf.Positional]
    data: MaybeText = None
    num: int = 256
    seed: int = 0
    spaces: tuple[str, ...] = ()
    distances: tuple[str, ...] = ()
    sampler: MaybeText = None
    steps: int = 20
    guidance_scale: MaybeFloat = None
    weights: MaybeText = None
    batch: int = 64
    device: str = "auto"
    out: MaybePath = None
    against: MaybePath = None


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(EvaluateOptions, argv, verb="eval")
    from kakusan.metrics.results import EvaluationResult, comparison_text
    from kakusan.metrics.verdict import summary
    from kakusan.tasks.evaluate import EvaluationSettings, evaluate_run

    # Read first: a wrong name is said before a minute of work.
    other = None if options.against is None else EvaluationResult.read(options.against)
    settings = EvaluationSettings(
        num=options.num,
        seed=options.seed,
        spaces=options.spaces,
        distances=options.distances,
        num_steps=options.steps,
        sampler=options.sampler,
        guidance_scale=options.guidance_scale,
        weights=options.weights,
        batch=options.batch,
        device=options.device,
    )
    say = partial(print, flush=True)
    result = evaluate_run(options.run, data=options.data, out=options.out, say=say, settings=settings)
    print(summary(result))
    if other is not None:
        print(comparison_text(other, result))
    return 0
