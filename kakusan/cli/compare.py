"""`kakusan compare`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeInt, MaybeText
from kakusan.runtime import give_way

T = TypeVar("T")

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class CompareOptions:
    """Set models side by side: diffusion beside its rivals, or runs, samplers, steps and guidance scales.

    With --data, diffusion, a VAE, a GAN and a normalizing flow are trained on the same pictures in the same time and
    judged by the same measure. With runs, nothing is trained: quality is measured against network calls. Both write
    compare.json and compare.html, and go on where they stopped when the same command is given again.

    Args:
        runs: runs, checkpoints or rivals to compare; none to train a contest on --data.
        data: pictures to train a contest on, a folder, zip file or embedded set; of runs, where their pictures are.
        budget: of a contest, the time each model is trained: 90s, 5m, 1h.
        size: of a contest, the side of the pictures; found from the data when not given.
        pictures: of a contest on an embedded set, how many are drawn.
        models: of a contest, the kinds, separated by commas.
        seeds: of a contest, trainings of each kind.
        samplers: names, separated by commas.
        steps: of the sampler, separated by commas; a contest takes the largest and measures the others beside it.
        guidance_scales: separated by commas; 1 is none.
        num: samples of each (400 in a contest, else 256).
        seed: of the samples of runs.
        spaces: feature spaces, separated by commas; the usual ones when not given.
        weights: of runs, an EMA profile, or raw.
        threads: of the CPU; all when not given.
        device: auto, cpu, cuda.
        out: folder of the comparison.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    data: MaybeText = None
    budget: str = "5m"
    size: MaybeInt = None
    pictures: MaybeInt = None
    models: str = "diffusion,vae,gan,flow"
    seeds: int = 3
    samplers: str = "dpmpp-2m"
    steps: MaybeText = None
    guidance_scales: str = "1"
    num: MaybeInt = None
    seed: int = 0
    spaces: str = ""
    weights: MaybeText = None
    threads: MaybeInt = None
    device: str = "auto"
    out: Path = Path("runs/compare")


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(CompareOptions, argv, verb="compare")
    if not options.runs and options.data is None:
        raise ValueError(
            "name what to compare: runs, as in `kakusan compare runs/a runs/b --steps 5,10,20`, or data to train "
            "diffusion and its rivals on, as in `kakusan compare --data flowers --size 32 --budget 90s`"
        )
    start = _sweep if options.runs else _contest
    return start(options)


def _contest(options: CompareOptions) -> int:
    seconds, steps = budget(options.budget), listed(options.steps or "1,2,4,8,16", int, "steps")
    give_way()
    from kakusan.tasks.contest import Contest, ContestSettings

    assert options.data is not None
    settings = ContestSettings(
        data=options.data,
        seconds=seconds,
        models=tuple(listed(options.models, str, "models")),
        seeds=options.seeds,
        size=options.size,
        pictures=options.pictures,
        num=options.num or 400,
        steps=max(steps),
        rungs=tuple(sorted(set(steps) - {max(steps)})),
        spaces=tuple(listed(options.spaces, str, "spaces")),
        threads=options.threads,
        device=options.device,
    )
    Contest(settings, options.out, say).run()
    return 0


def _sweep(options: CompareOptions) -> int:
    steps, scales = listed(options.steps or "5,10,20", int, "steps"), listed(options.guidance_scales, float, "scales")
    give_way()
    from kakusan.tasks.compare import SweepSettings, sweep

    settings = SweepSettings(
        runs=options.runs,
        samplers=tuple(listed(options.samplers, str, "samplers")),
        steps=tuple(steps),
        guidance_scales=tuple(scales),
        num=options.num or 256,
        seed=options.seed,
        data=options.data,
        spaces=tuple(listed(options.spaces, str, "spaces")),
        weights=options.weights,
        threads=options.threads,
        device=options.device,
    )
    sweep(settings, options.out, say=say)
    return 0


def say(line: str) -> None:
    """A line for people, at once."""
    print(line, flush=True)


def budget(text: str) -> float:
    """Seconds of "90s", "5m", "1h", "1.5m" or "90".

    Raises:
        ValueError: anything else, or nothing at all of it.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    seconds = float(found[1]) * UNITS[found[2] or "s"] if found else 0.0
    if not seconds > 0.0:
        raise ValueError(f"a budget is a time such as 90s, 5m or 1h, got {text!r}")
    return seconds


def listed(text: str, kind: Callable[[str], T], what: str) -> list[T]:
    """Values separated by commas, each once, in their order.

    Raises:
        ValueError: a value that is not one.
    """
    parts = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    try:
        return [kind(part) for part in parts]
    except ValueError:
        raise ValueError(f"{what} are values separated by commas, such as 5,10,20; got {text!r}") from None
