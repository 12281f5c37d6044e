"""The page of `benchmarks/captions.py`: figures, and no word or picture of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common import table

PROMPTS = {
    "flowers": [
        "a flower with many thin yellow petals and a dark brown centre",
        "a purple flower with five round petals",
        "a white flower with a yellow centre",
        "a red flower with large overlapping petals",
        "an orange flower with pointed petals and green leaves",
        "a pink flower with a white throat",
        "a blue flower with small petals in a cluster",
        "a flower",
    ],
    "emoji": [
        "a red heart",
        "a yellow smiling face",
        "a green leaf",
        "a blue car",
        "a cat with heart eyes",
        "a slice of cake",
        "a person running",
        "a clock",
    ],
}
"""Our own words, for the sheets."""

CLAIMS = {
    "flowers": (
        "Oxford 102 flowers. Held out are the pictures whose ten captions are known to be theirs; the captions of most "
        "training pictures are of some picture of the same class, matched by colour, so what can be learned from them "
        "is what a class looks like and a little of its colours."
    ),
    "emoji": (
        "Noto emoji with one short name each; every tenth name is held out. Many a held-out name has a word that no "
        "training name has, so there is little to carry over."
    ),
}


@dataclass(frozen=True)
class Reading:
    """What the reader says of some pictures.

    Args:
        name: of the pictures.
        rates: k -> plain values of the R-precision at k.
        standing: (share of the other captions that stand before its own, its standard error); a half is chance.
        same: share of pictures whose nearest caption is of a picture of the right class.
        ratios: by feature space, (Frechet ratio to training pictures, its standard error).
        count: pictures.
    """

    name: str
    rates: Mapping[str, Mapping[str, float]]
    standing: Sequence[float]
    same: float
    ratios: Mapping[str, Sequence[float]]
    count: int

    @property
    def beyond(self) -> bool:
        """Whether the captions are told from others beyond chance, by two standard errors."""
        return 0.5 - self.standing[0] > 2.0 * self.standing[1]


@dataclass(frozen=True)
class Found:
    """All that one run of the benchmark found."""

    set: str
    size: int
    pictures: int
    held_out: int
    among: int
    spaces: Sequence[str]
    readings: Sequence[Reading]
    training: str
    sure: bool
    parameters: int
    steps: int
    guidance: float
    reader: str
    command: str
    machine: str

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Found:
        """From plain values, the inverse of `dataclasses.asdict`."""
        return cls(**{**plain, "readings": [Reading(**r) for r in plain["readings"]]})

    @property
    def followed(self) -> bool:
        """Whether guided samples stand nearer to their captions than chance, and than to those of others, by two
        standard errors."""
        *_, guided, moved = self.readings
        between = math.hypot(guided.standing[1], moved.standing[1])
        return guided.beyond and moved.standing[0] - guided.standing[0] > 2.0 * between


def section(found: Found) -> str:
    """One data set, in Markdown."""
    leak = "" if found.sure else " **The model was trained elsewhere: that it never saw these pictures is not known.**"
    real, *_, guided, _ = found.readings
    chance = f"{guided.rates['1']['chance']:.1%}"
    verdict = (
        f"Of {found.among} captions the reader finds the one that a sample was drawn for in {_rate(guided, '1')} of "
        f"cases (chance {chance}); for real pictures it finds theirs in {_rate(real, '1')}."
    )
    if not real.beyond:
        verdict += " **The reader cannot tell real pictures' captions beyond chance: train it longer.**"
    elif not found.followed:
        verdict += " **The samples do not follow their captions beyond chance.**"
    rows = [
        [
            r.name,
            r.count,
            *(_rate(r, k) for k in r.rates),
            f"{r.standing[0]:.1%} ± {r.standing[1]:.1%}",
            f"{r.same:.1%}",
            *(f"{r.ratios[space][0]:.2f} ± {r.ratios[space][1]:.2f}" for space in found.spaces),
        ]
        for r in found.readings
    ]
    head = ["pictures", "number", *(f"R-precision at {k}" for k in real.rates), "before its own"]
    head.append("class of the nearest")
    return "\n\n".join(
        [
            f"## {'Real flowers' if found.set == 'flowers' else 'Named emoji'}, {found.size} x {found.size}",
            f"`{found.command}`",
            f"{CLAIMS[found.set]} {found.pictures} pictures to train on, {found.held_out} held out.{leak}",
            verdict,
            table([*head, *(f"ratio, {space}" for space in found.spaces)], rows),
            f"R-precision at k: the caption is among the k nearest of {found.among}, the others drawn from those of "
            "other held-out pictures. *Before its own*: share of the others that are nearer than its own (50% is "
            "chance; the verdict rests on it). *Class of the nearest*: the nearest caption is of a picture of the "
            "right class. Ratios are Frechet distances to training pictures over those between training pictures (1: "
            "as near as real ones are).",
            f"Model: {found.parameters / 1e6:.2f} M parameters with its text tower; {found.training}; {found.steps} "
            f"steps of the sampler. Reader: a CLIP of its own ({found.reader}), trained on training pictures only, "
            f"never seen by the model. {found.machine}",
            f"![samples of our own prompts](captions-{found.set}.png)",
            f"Our own prompts, guidance {found.guidance:g}, seeds in order, nothing picked.",
        ]
    )


def _rate(reading: Reading, k: str) -> str:
    rate = reading.rates[k]
    return f"{rate['value']:.1%} ± {rate['error']:.1%}"


def page(every: Sequence[Found]) -> str:
    """The whole page."""
    lead = (
        "Models of texts trained on captions of real pictures, asked with captions that were held out. Figures and our "
        "own samples only: no picture and no caption of the data is shown."
    )
    return "\n\n".join(["# Pictures from real captions", lead, *(section(f) for f in every)])
