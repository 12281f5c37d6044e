"""Plain flowers whose factors are drawn free of each other, with pairs of colour and petal count that training lacks.

Open it as `flowers:words` (training), `flowers:words:held-out` (as many seen pairs as unseen ones),
`flowers:words:seen` and `flowers:words:unseen`. Every picture has several texts in English and in Japanese that name
all or some of its factors (`kakusan.data.flowers_prompts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kakusan.data.flowers import SPLITS, Dice, Factors, draw_batch
from kakusan.data.flowers_species import HUES, PLAIN, POINTED, ROUND
from kakusan.specs import suggestion

if TYPE_CHECKING:
    from kakusan.data.source import ArrayPictures

_ANY = PLAIN[ROUND]

ATTRIBUTES: Mapping[str, tuple[int | str, ...]] = {
    "petal_hue": _ANY.hues,
    "petal_count": _ANY.counts,
    "petal_form": (PLAIN[ROUND].petal_form, PLAIN[POINTED].petal_form),
    "centre_hue": _ANY.centres,
    "leaf_count": _ANY.leaves,
    "background": _ANY.backgrounds,
}
"""The factors that vary and can be read from 32x32 pixels, with their values. Each is a field of `Factors`."""

UNSEEN: tuple[tuple[str, int], ...] = tuple(
    (hue, _ANY.counts[(2 * place + 1) % len(_ANY.counts)]) for place, hue in enumerate(_ANY.hues)
)
"""Pairs (petal hue, petal count) that no training picture has: one for each hue, no count more than twice."""

SEEN: tuple[tuple[str, int], ...] = tuple(
    (hue, count) for hue in _ANY.hues for count in _ANY.counts if (hue, count) not in UNSEEN
)
"""All other pairs, which are drawn equally often."""

PARTS: Mapping[str, tuple[str, tuple[tuple[tuple[str, int], ...], ...]]] = {
    "train": ("train", (SEEN,)),
    "held-out": ("held-out", (SEEN, UNSEEN)),
    "seen": ("held-out", (SEEN,)),
    "unseen": ("held-out", (UNSEEN,)),
}
"""Part -> split of `kakusan.data.flowers.SPLITS`, and the pairs it draws from in turn."""

VERSION = 1
"""Raised whenever pictures or texts change."""

_OTHER_SET = 0x77 << 56
"""Keeps these pictures apart from those of the ordinary set, which have the same seeds."""


def values_of(factors: Factors) -> dict[str, int | str]:
    """The varied factors of a picture, by name."""
    return {name: getattr(factors, name) for name in ATTRIBUTES}


def sample_plain(seed: int, index: int, pairs: Sequence[tuple[str, int]] | None = None, **fixed: int | str) -> Factors:
    """The factors of picture `index` under `seed`: a pair of hue and count out of `pairs`, the rest free.

    Args:
        seed: of the set.
        index: of the picture.
        pairs: allowed pairs (petal hue, petal count); all when not given.
        fixed: attributes that are given, such as `petal_count=5`.

    Raises:
        ValueError: an unknown attribute or value, no pair left, or a centre of the petals' own colour.
    """
    check_values(fixed)
    dice = Dice(seed, index ^ _OTHER_SET, 32)
    allowed = [
        pair
        for pair in ((*SEEN, *UNSEEN) if pairs is None else pairs)
        if fixed.get("petal_hue", pair[0]) == pair[0]
        and fixed.get("petal_count", pair[1]) == pair[1]
        and fixed.get("centre_hue") != pair[0]
    ]
    if not allowed:
        raise ValueError(f"no pair of petal hue and count fits {fixed}; the centre has another colour than the petals")
    hue, count = dice.choose(allowed)
    form = dice.choose(ATTRIBUTES["petal_form"])
    centre = dice.choose([c for c in _ANY.centres if c != hue])
    leaves, background = dice.choose(_ANY.leaves), dice.choose(_ANY.backgrounds)
    form = fixed.get("petal_form", form)
    centre = str(fixed.get("centre_hue", centre))
    species = next(s for s in PLAIN.values() if s.petal_form == form)
    return Factors(
        species=species.name,
        petal_count=count,
        petal_form=species.petal_form,
        petal_hue=hue,
        petal_rgb=dice.near(HUES[hue].rgb, 8.0),
        centre_hue=centre,
        centre_rgb=dice.near(HUES[centre].rgb, 8.0),
        flower_count=1,
        leaf_count=int(fixed.get("leaf_count", leaves)),
        leaf_rgb=dice.near(dice.choose(((74, 138, 56), (52, 120, 62))), 8.0),
        background=str(fixed.get("background", background)),
        x=dice.uniform(-0.05, 0.05),
        y=dice.uniform(*species.heights),
        scale=dice.uniform(*species.sizes),
        rotation=dice.uniform(-species.turn, species.turn),
        tilt=dice.uniform(*species.tilt),
        light=dice.uniform(1.6, 2.8),
        brightness=dice.uniform(0.95, 1.05),
        detail=int(dice.bits[31]),
    )


def check_values(values: Mapping[str, int | str]) -> None:
    """Raise `ValueError` for an attribute or a value that these flowers do not have."""
    for name, value in values.items():
        if name not in ATTRIBUTES:
            raise ValueError(
                f"no attribute {name!r}{suggestion(name, list(ATTRIBUTES))}; there are {', '.join(ATTRIBUTES)}"
            )
        if value not in ATTRIBUTES[name]:
            known = [str(v) for v in ATTRIBUTES[name]]
            raise ValueError(f"no {name} {value!r}{suggestion(str(value), known)}; there are {', '.join(known)}")


def factors_of(part: str, index: int) -> Factors:
    """The factors of picture `index` of a part.

    Raises:
        ValueError: an unknown part.
    """
    if part not in PARTS:
        raise ValueError(f"flowers:words has no part {part!r}{suggestion(part, list(PARTS))}; known are {list(PARTS)}")
    split, choices = PARTS[part]
    return sample_plain(SPLITS[split], index, choices[index % len(choices)])


def pictures(size: int | tuple[int, int] = 32, num: int = 8000, split: str = "train") -> ArrayPictures:
    """The data set: `num` plain flowers with names and several texts each, without classes.

    Raises:
        ValueError: an unknown part, or no pictures.
    """
    from kakusan.data.flowers_prompts import texts
    from kakusan.data.source import ArrayPictures
    from kakusan.data.spec import DataSpec

    if num < 1:
        raise ValueError(f"a data set needs at least one picture, got num={num}")
    factors = [factors_of(split, index) for index in range(num)]
    stored = np.ascontiguousarray(np.moveaxis(draw_batch(factors, size), -1, 1))
    return ArrayPictures(
        DataSpec.measure(stored, mode="RGB"),
        stored,
        names=[f"flowers:words/{split}/{index}" for index in range(num)],
        texts=[texts(f) for f in factors],
        fingerprint=f"flowers words {VERSION} {split} {num} {size}",
    )
