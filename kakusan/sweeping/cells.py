"""The pictures of a sweep, and the batches in which they are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any

from torch import Tensor

from kakusan.grids import GRIDS
from kakusan.levels import tabulate
from kakusan.pipeline import Pipeline
from kakusan.samplers.base import check_start
from kakusan.sweeping.axes import AXES, Axis, Subject
from kakusan.sweeping.setups import Setup, digest, joined
from kakusan.sweeping.values import Value

MOST = 20_000
"""Pictures of a sweep, at most."""

Axes = Sequence[tuple[Axis, Sequence[Value]]]


@dataclass(frozen=True)
class Cell:
    """One picture.

    Args:
        place: number of its value on each axis, and of the picture among those of one place.
        values: of the axes.
        setup: what decides it.
    """

    place: tuple[int, ...]
    values: tuple[Value, ...]
    setup: Setup

    @cached_property
    def digest(self) -> str:
        """Identity of everything that decides the picture."""
        return digest(self.setup.record())

    @property
    def file(self) -> str:
        """Name of its file."""
        return "-".join(f"{number:03d}" for number in self.place) + ".png"


@dataclass(frozen=True)
class Batch:
    """Pictures that are drawn at once."""

    cells: tuple[Cell, ...]

    @property
    def setup(self) -> Setup:
        """One for all of them."""
        return joined([cell.setup for cell in self.cells])


def every_cell(axes: Axes, bases: Sequence[Setup], subject: Subject) -> list[Cell]:
    """The pictures of a sweep, the first axis slowest, the pictures of one place fastest.

    Args:
        axes: one or two, with their values.
        bases: for each picture of one place, what the axes do not change.
        subject: what is swept.

    Raises:
        ValueError: values that do not go together, or too many pictures for any sheet.
    """
    count = len(bases) * math.prod(len(values) for _, values in axes)
    if count > MOST:
        raise ValueError(f"this sweep has {count:,} pictures, at most {MOST:,} fit on one sheet; give fewer values")
    order = sorted(range(len(axes)), key=lambda i: list(AXES).index(axes[i][0].name))
    cells = []
    for place in product(*(range(len(values)) for _, values in axes), range(len(bases))):
        values = tuple(axis_values[i] for (_, axis_values), i in zip(axes, place, strict=False))
        setup = bases[place[-1]]
        for i in order:
            setup = axes[i][0].change(setup, values[i], subject)
        cells.append(Cell(place, values, setup))
    return cells


def batches(cells: Sequence[Cell], size: int) -> list[Batch]:
    """The cells in batches of at most `size`, model by model; those of one seed and label stand together, since they
    start from one picture of noise.

    Raises:
        ValueError: no picture in a batch.
    """
    if size < 1:
        raise ValueError(f"a batch holds at least one picture, got --batch {size}")
    models: dict[Any, int] = {}
    groups: dict[Setup, list[Cell]] = {}
    for cell in cells:
        models.setdefault(cell.setup.model, len(models))
        groups.setdefault(cell.setup.together(), []).append(cell)
    found = []
    for _, group in sorted(groups.items(), key=lambda item: models[item[0].model]):
        group = sorted(group, key=lambda cell: (cell.setup.request.seeds, cell.setup.request.labels or (), cell.place))
        # Equal parts: a last batch of two pictures would cost more than its share.
        count = -(-len(group) // size)
        cuts = [len(group) * i // count for i in range(count + 1)]
        found += [Batch(tuple(group[a:b])) for a, b in pairwise(cuts)]
    return found


def run(pipeline: Pipeline, batch: Batch) -> tuple[Tensor, Setup]:
    """The samples of a batch (B, C, *size) and the setup they were drawn by."""
    setup = batch.setup
    return setup.way.run(pipeline, setup.request), setup


def check(pipeline: Pipeline, found: Sequence[Batch]) -> None:
    """Refuse before the first picture what the model cannot do; only batches of this model are looked at.

    Raises:
        ValueError: naming it.
    """
    for batch in found:
        first = batch.cells[0].setup.request
        denoiser, _ = pipeline.guided(batch.setup.request)
        levels = tabulate(denoiser.schedule, GRIDS[first.grid](denoiser.schedule, first.num_steps))
        check_start(denoiser, first.sampler, levels)
