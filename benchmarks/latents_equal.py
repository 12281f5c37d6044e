"""Latent against pixel: what was measured, and what it says at equal quality.

No network is run here, so that the arithmetic of the verdict can be tested by itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common import Spread


@dataclass(frozen=True)
class Point:
    """A checkpoint.

    Args:
        step: of the training.
        seconds: of training until then, without what was measured on the way.
        ratios: by feature space, the Frechet distance of samples to real pictures over that of real to real.
        errors: standard errors of those.
        accuracy: share of guided samples of the right class.
    """

    step: int
    seconds: float
    ratios: Mapping[str, float]
    errors: Mapping[str, float]
    accuracy: float


@dataclass(frozen=True)
class Costs:
    """What one step and one picture cost; one number of every list is of the same round as that of the others.

    Args:
        parameters: of the network that is trained.
        step_gflop: nominal, forward and backward, of one picture.
        image_gflop: nominal, all evaluations of one picture and its decoding.
        step: milliseconds of a training step.
        image: milliseconds of drawing one picture of a batch, decoded.
        decode: milliseconds of decoding alone; empty without an autoencoder.
    """

    parameters: int
    step_gflop: float
    image_gflop: float
    step: Sequence[float]
    image: Sequence[float]
    decode: Sequence[float] = ()


@dataclass(frozen=True)
class Contestant:
    """A trained model.

    Args:
        name: for people.
        latent: name of its autoencoder; None for a model of pixels.
        grid: places a side that its network sees.
        points: rising in time.
        costs: measured in turns with all others.
    """

    name: str
    latent: str | None
    grid: int
    points: Sequence[Point]
    costs: Costs


@dataclass(frozen=True)
class Coder:
    """An autoencoder.

    Args:
        name: for people.
        latent: shape of a latent.
        steps: of its training.
        seconds: of its training.
        encoding: seconds in which all training pictures were encoded, once.
        psnr: on held-out pictures, decibels.
        ratios: of decoded held-out pictures: no model on these latents can be expected to do better.
        accuracy: share of decoded held-out pictures that the judge gives their class.
    """

    name: str
    latent: Sequence[int]
    steps: int
    seconds: float
    encoding: float
    psnr: float
    ratios: Mapping[str, float]
    accuracy: float


@dataclass(frozen=True)
class Found:
    """All that one run of the benchmark found."""

    size: int
    minutes: float
    samples: int
    num_steps: int
    batch: int
    drawn: int
    spaces: Sequence[str]
    held_out: Mapping[str, float]
    judge: float
    contestants: Sequence[Contestant]
    coders: Sequence[Coder]
    command: str
    machine: str

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Found:
        """From plain values, the inverse of `dataclasses.asdict`."""
        contestants = [
            Contestant(**{**c, "points": [Point(**p) for p in c["points"]], "costs": Costs(**c["costs"])})
            for c in plain["contestants"]
        ]
        return cls(**{**plain, "contestants": contestants, "coders": [Coder(**c) for c in plain["coders"]]})

    def plain(self) -> dict[str, Any]:
        """Values for JSON."""
        return dataclasses.asdict(self)

    def coder(self, contestant: Contestant) -> Coder:
        """The autoencoder of a model of latents."""
        return next(c for c in self.coders if c.name == contestant.latent)


def best(contestant: Contestant, space: str) -> Point:
    """The checkpoint nearest to real pictures."""
    return min(contestant.points, key=lambda p: p.ratios[space])


def reached(points: Sequence[Point], quality: float, space: str) -> tuple[float, bool] | None:
    """(seconds of training when a curve first is at `quality` or nearer to real pictures, whether that is a bound).

    Between checkpoints the logarithm of the ratio is taken as straight. A bound, when the first checkpoint was there
    already: it took so long at most. None when no checkpoint is there.
    """
    before: Point | None = None
    for point in points:
        if point.ratios[space] <= quality:
            if before is None:
                return point.seconds, point.ratios[space] < quality
            high, low = math.log(before.ratios[space]), math.log(point.ratios[space])
            share = 1.0 if high == low else (high - math.log(quality)) / (high - low)
            return before.seconds + share * (point.seconds - before.seconds), False
        before = point
    return None


def accuracy_at(points: Sequence[Point], seconds: float) -> float:
    """Accuracy between checkpoints, straight; that of the nearest beyond them."""
    before = points[0]
    for point in points:
        if point.seconds >= seconds:
            span = point.seconds - before.seconds
            share = 0.0 if span <= 0.0 else (seconds - before.seconds) / span
            return before.accuracy + max(0.0, share) * (point.accuracy - before.accuracy)
        before = point
    return before.accuracy


@dataclass(frozen=True)
class Equal:
    """A pixel and a latent model at the quality that both reach.

    Args:
        quality: ratio, the worse of their best.
        pixel: seconds of training of the one, and whether that is a bound.
        latent: seconds of the other, without its autoencoder.
        pixel_accuracy: of guided samples at that time.
        latent_accuracy: likewise.
    """

    quality: float
    pixel: tuple[float, bool]
    latent: tuple[float, bool]
    pixel_accuracy: float
    latent_accuracy: float


def equal(pixel: Contestant, latent: Contestant, space: str) -> Equal:
    """Both at the same quality: the better one is read where it was as good as the other became."""
    quality = max(best(pixel, space).ratios[space], best(latent, space).ratios[space])
    one, two = reached(pixel.points, quality, space), reached(latent.points, quality, space)
    assert one is not None
    assert two is not None
    return Equal(quality, one, two, accuracy_at(pixel.points, one[0]), accuracy_at(latent.points, two[0]))


def times(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times one takes what the other takes, round by round."""
    return Spread.of(a / b for a, b in zip(slow, fast, strict=True))


def strongest(found: Found, *, latent: bool) -> list[Contestant]:
    """Models of pixels or of latents, nearest to real pictures first."""
    space = found.spaces[0]
    kind = [c for c in found.contestants if (c.latent is not None) == latent]
    return sorted(kind, key=lambda c: best(c, space).ratios[space])


def verdicts(found: Found, latent: Contestant) -> list[tuple[str, bool, bool]]:
    """(claim with its figures, whether it holds, whether the verdict rests on it) of a latent model against the best
    model of pixels."""
    pixel, space = strongest(found, latent=False)[0], found.spaces[0]
    step, image = times(pixel.costs.step, latent.costs.step), times(pixel.costs.image, latent.costs.image)
    goal = best(pixel, space)
    there = reached(latent.points, goal.ratios[space], space)
    lines = [
        (f"a training step costs less: {pixel.name} takes {step.text()} times as long", step.least > 1.0, True),
        (f"a picture costs less, decoded: {pixel.name} takes {image.text()} times as long", image.least > 1.0, True),
        (
            f"its samples come as near to real pictures as the best of {pixel.name}: "
            f"{best(latent, space).ratios[space]:.2f} against {goal.ratios[space]:.2f}",
            there is not None,
            True,
        ),
    ]
    same = equal(pixel, latent, space)
    spread = 2.0 * math.sqrt(sum(a * (1.0 - a) / found.samples for a in (same.pixel_accuracy, same.latent_accuracy)))
    lines.append(
        (
            f"at equal distance guided samples are of the right class as often: {same.latent_accuracy:.1%} against "
            f"{same.pixel_accuracy:.1%}, within two standard errors ({spread:.1%})",
            same.latent_accuracy >= same.pixel_accuracy - spread,
            True,
        )
    )
    least = 0.5 * found.judge
    lines.append(
        (
            f"both have learned by then: at least half as often right as real pictures are ({least:.1%})",
            min(same.pixel_accuracy, same.latent_accuracy) >= least,
            True,
        )
    )
    coder = found.coder(latent)
    alone, whole = same.latent[0], same.latent[0] + coder.seconds + coder.encoding
    lines.append(
        (
            f"training to the ratio {same.quality:.2f} takes less: {seconds_text(same.latent)} against "
            f"{seconds_text(same.pixel)}",
            alone < same.pixel[0],
            False,
        )
    )
    lines.append(
        (
            f"also with its autoencoder, trained and applied once: {whole:.0f} s against {seconds_text(same.pixel)}",
            whole < same.pixel[0],
            False,
        )
    )
    return lines


def shown(found: Found) -> bool:
    """Whether some latent model saves time at equal quality."""
    return any(
        all(met for _, met, needed in verdicts(found, latent) if needed) for latent in strongest(found, latent=True)
    )


def seconds_text(reach: tuple[float, bool]) -> str:
    """For people."""
    return f"{'at most ' if reach[1] else ''}{reach[0]:.0f} s"
