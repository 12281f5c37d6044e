"""What is made of the pictures of a sweep: a sheet, a video and a table of facts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kakusan.files import write_text
from kakusan.report.animation import WRITERS, save_animation
from kakusan.report.png import save_png
from kakusan.report.sweep import Block, Slider, arranged, for_palette, frames, sheet
from kakusan.sweeping.axes import Axis, Subject
from kakusan.sweeping.cells import Cell
from kakusan.sweeping.facts import averaged, measured
from kakusan.sweeping.setups import Setup
from kakusan.sweeping.store import CELLS, Drawn
from kakusan.sweeping.values import Value

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1
SHEET, TABLE, VIDEO = "sheet.png", "sweep.json", "sweep"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A sweep as it is shown.

    Args:
        subject: what was swept.
        axes: one or two, with their values.
        bases: what the axes do not change, for each picture of one place.
        cells: in the order of `every_cell`.
    """

    subject: Subject
    axes: Sequence[tuple[Axis, tuple[Value, ...]]]
    bases: Sequence[Setup]
    cells: Sequence[Cell]

    @cached_property
    def names(self) -> list[str]:
        """Names of the pictures of one place, by what the axes leave alone."""
        swept = {axis.name for axis, _ in self.axes}
        found = []
        for number, base in enumerate(self.bases):
            labels, parts = base.request.labels, []
            if labels is not None and "label" not in swept:
                parts.append(self.subject.pipeline.label_name(labels[0]))
            if "seed" not in swept:
                parts.append(f"seed {base.request.seeds[0]}")
            found.append(", ".join(parts) or f"picture {number + 1}")
        return found

    @property
    def words(self) -> list[list[str]]:
        """The values of each axis as they stand beside pictures."""
        return [[axis.said(value) for value in values] for axis, values in self.axes]

    @property
    def references(self) -> list[int]:
        """Number of the value on each axis that pictures are compared with."""
        return [axis.reference(values) for axis, values in self.axes]

    def told(self) -> dict[str, Any]:
        """Everything that decides the sweep, as plain values."""
        labels = [base.request.labels for base in self.bases]
        name = self.subject.pipeline.label_name
        return {
            "axes": {axis.name: list(values) for axis, values in self.axes},
            **self.bases[0].record(),
            "seeds": [base.request.seeds[0] for base in self.bases],
            "labels": [None if label is None else name(label[0]) for label in labels],
        }

    def at(self, *place: int) -> int:
        """Number of the cell at a place."""
        sizes = [len(values) for _, values in self.axes] + [len(self.bases)]
        number = 0
        for index, size in zip(place, sizes, strict=True):
            number = number * size + index
        return number

    def blocks(self, pictures: Sequence[Image]) -> list[Block]:
        """The parts of the sheet: one axis has a row for each picture, two axes a block for each."""
        words = self.words
        if len(self.axes) == 1:
            every = [pictures[self.at(i, k)] for k in range(len(self.bases)) for i in range(len(words[0]))]
            return [Block(pictures=every, columns=words[0], rows=self.names)]
        return [
            Block(
                pictures=[pictures[self.at(i, j, k)] for j in range(len(words[1])) for i in range(len(words[0]))],
                columns=words[0],
                rows=words[1],
                title=name,
            )
            for k, name in enumerate(self.names)
        ]

    def check(self, blank: Image) -> None:
        """Refuse a sheet that is too large before anything is drawn; `blank` has the size of one picture."""
        arranged(self.blocks([blank] * len(self.cells)))

    def sheet(self, drawn: Sequence[Drawn], path: Path, record: Mapping[str, Any]) -> None:
        """Write the sheet."""
        across, *down = (axis.name for axis, _ in self.axes)
        heading = " and ".join([f"{across} across", *(f"{name} down" for name in down)])
        blocks = self.blocks([each.picture for each in drawn])
        save_png(sheet(blocks, heading=f"{self.subject.run.resolve().name}: {heading}"), path, record)

    def video(self, drawn: Sequence[Drawn], path: Path) -> None:
        """Write the video over the first axis; with a second axis, its values stand in a row."""
        words, count = self.words, len(self.bases)
        slider = Slider(name=self.axes[0][0].name, labels=words[0], reference=self.references[0])
        pictures = [each.picture for each in drawn]
        if path.suffix == ".gif":
            pictures = for_palette(pictures)
        if len(self.axes) == 1:
            columns = next(n for n in range(1, count + 1) if n * n >= count)
            every = [[pictures[self.at(i, k)] for k in range(count)] for i in range(len(words[0]))]
            shown = frames(every, slider, columns=columns)
        else:
            every = [
                [pictures[self.at(i, j, k)] for k in range(count) for j in range(len(words[1]))]
                for i in range(len(words[0]))
            ]
            named = [f"{self.axes[1][0].name}\n{words[1][0]}", *words[1][1:]]
            rows = self.names if count > 1 else None
            shown = frames(every, slider, columns=len(words[1]), column_labels=named, row_labels=rows)
        save_animation(shown, path, fps=min(10.0, max(1.5, len(shown) / 4.0)), hold=1.0)

    def table(self, drawn: Sequence[Drawn], told: Mapping[str, Any]) -> dict[str, Any]:
        """Settings, seeds, cost and facts of every picture, and the facts of every place."""
        reference, count = self.references, len(self.bases)
        facts = [
            measured(each.picture, drawn[self.at(*reference, number % count)].picture)
            for number, each in enumerate(drawn)
        ]
        swept = [axis.name for axis, _ in self.axes]
        places = []
        for start in range(0, len(self.cells), count):
            values = dict(zip(swept, self.cells[start].values, strict=True))
            places.append({"values": values, **averaged(facts[start : start + count])})
        rows = [
            {
                "file": f"{CELLS}/{cell.file}",
                "values": dict(zip(swept, cell.values, strict=True)),
                "seed": cell.setup.request.seeds[0],
                "label": self._label(cell),
                **asdict(fact),
                "finite": each.finite,
                "cost": dict(each.cost),
                "settings": cell.setup.record(),
            }
            for cell, fact, each in zip(self.cells, facts, drawn, strict=True)
        ]
        total = {name: sum(each.cost[name] for each in drawn) for name in drawn[0].cost}
        references = [values[place] for (_, values), place in zip(self.axes, reference, strict=True)]
        return {
            "format": FORMAT,
            **told,
            "reference": dict(zip(swept, references, strict=True)),
            "cost": total,
            "places": places,
            "cells": rows,
        }

    def _label(self, cell: Cell) -> str | None:
        labels = cell.setup.request.labels
        return None if labels is None else self.subject.pipeline.label_name(labels[0])

    def write(self, drawn: Sequence[Drawn], out: Path, told: Mapping[str, Any], suffix: str | None) -> list[str]:
        """Write everything into a folder; returns the names of the files."""
        names = [SHEET, TABLE]
        self.sheet(drawn, out / SHEET, {"kind": "sweep", **told})
        if suffix is not None:
            names.insert(1, VIDEO + suffix)
            self.video(drawn, out / names[1])
        write_text(out / TABLE, json.dumps(self.table(drawn, told), indent=1, ensure_ascii=False) + "\n")
        return names


def video_suffix(name: str) -> str | None:
    """The file suffix of a kind of video; None for none.

    Raises:
        ValueError: another kind; ImportError where the kind needs a package that is not there.
    """
    if name == "none":
        return None
    suffix = f".{name.removeprefix(os.extsep)}"
    if suffix not in WRITERS:
        raise ValueError(f"--video is one of {', '.join(s[1:] for s in WRITERS)} or none, got {name!r}")
    if suffix == ".mp4":
        from kakusan.extras import need

        need("imageio_ffmpeg", extra="video", what="an MP4 video")
    return suffix
