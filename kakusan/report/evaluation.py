"""The page of an evaluation: a verdict anybody understands, then what it rests on, down to the hashes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from kakusan.metrics.record import MetricRecord
from kakusan.metrics.results import EvaluationResult
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.verdict import SCALES, verdict
from kakusan.report import style
from kakusan.report.curves import nearest_neighbours
from kakusan.report.evaluation_figures import charts, levels_figure, spectrum_figure
from kakusan.report.grids import grid
from kakusan.report.page import Page
from kakusan.report.pictures import auto_scale

COLUMNS = 6
_ROWS = 16
_STRIP = 8


@dataclass(frozen=True)
class EvaluationPictures:
    """Pictures on the page.

    Args:
        samples: what was measured.
        real: real pictures that samples were compared with.
        suspicious: (sample, its nearest training picture), the most suspicious first.
    """

    samples: PictureSet
    real: PictureSet
    suspicious: tuple[PictureSet, PictureSet] | None = None


def evaluation_page(result: EvaluationResult, pictures: EvaluationPictures) -> Page:
    """The whole page."""
    page = Page(f"Evaluation of {result.subject}", " ".join(verdict(result)))
    page.facts(_facts(result))
    if not result.complete:
        page.text("This evaluation was stopped before its end: what follows is what had been measured until then.")
    _samples(page, pictures)
    _faults(page, result)
    _distances(page, result)
    _other_numbers(page, result)
    _memorisation(page, result, pictures)
    _classes(page, result)
    _origins(page, result)
    return page


def _facts(result: EvaluationResult) -> dict[str, object]:
    first = result.records[0] if result.records else None
    found: dict[str, object] = {} if first is None else {"samples": first.n}
    names = {
        "network_calls": "network calls for a sample",
        "parameters": "parameters",
        "flops": "operations for a sample",
    }
    for key, name in names.items():
        if result.cost.get(key) is not None:
            found[name] = _large(float(result.cost[key]))
    seconds = result.circumstances.get("seconds_per_sample")
    if seconds:
        found["time for a sample"] = f"{1e3 * float(seconds):.3g} ms"
    return found


def _large(value: float) -> str:
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"


def _samples(page: Page, pictures: EvaluationPictures) -> None:
    page.section("Samples and real pictures")
    page.picture(
        _beside(pictures.samples, pictures.real),
        "Left: samples, not chosen by anybody. Right: real pictures that none of the judges learnt from.",
    )


def _beside(samples: PictureSet, real: PictureSet) -> Image.Image:
    """The first samples and real pictures of each class, or the first of all."""
    sheets: list[Image.Image] = []
    shown = _shown_classes(samples, real)
    for title, pictures in (("samples", samples), ("real pictures", real)):
        if shown and pictures.labels is not None:
            rows = [int(i) for label in shown for i in (pictures.labels == label).nonzero()[:COLUMNS, 0]]
            names = [pictures.spec.classes[label] for label in shown] if not sheets else None
        else:
            rows, names = list(range(min(len(samples), len(real), COLUMNS * _ROWS // 2))), None
        scale = auto_scale(pictures.spec.size[0], pictures.spec.size[1], target=64)
        sheets.append(grid(_images(pictures, rows), columns=COLUMNS, row_labels=names, title=title, scale=scale))
    together = style.canvas(sum(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets))
    together.paste(sheets[0], (0, 0))
    together.paste(sheets[1], (sheets[0].width, 0))
    return together


def _shown_classes(samples: PictureSet, real: PictureSet) -> list[int]:
    """Classes with a full row of both, the first few."""
    if samples.labels is None or real.labels is None or not real.spec.classes:
        return []
    labels = range(len(real.spec.classes))
    counts = [int(min((p.labels == label).sum() for p in (samples, real) if p.labels is not None)) for label in labels]
    return [label for label in labels if counts[label] >= COLUMNS][:_ROWS]


def _images(pictures: PictureSet, rows: Sequence[int]) -> list[Image.Image]:
    return pictures.spec.to_pil(pictures.take(rows).x())


def _faults(page: Page, result: EvaluationResult) -> None:
    page.section("What is wrong, and what to do")
    if not result.faults:
        page.text(
            "None of the known faults was found: blur, noise, wrong colour, missing modes, copies, ignored labels."
        )
    rows = []
    for fault in result.faults:
        lines = [MetricRecord.from_record(record).text() for record in fault.get("evidence", ())]
        rows.append({"fault": fault["name"], "what, and what to try": fault["verdict"], "evidence": "; ".join(lines)})
    if rows:
        page.table(rows)
    if result.notes:
        page.text("\n".join(result.notes))


def _distances(page: Page, result: EvaluationResult) -> None:
    drawn = charts(result.records)
    if not drawn:
        return
    page.section("Distances to real pictures")
    page.text(
        "Every distance is set beside its null: what other real pictures score in the place of the samples, at the "
        "same number of pictures. A dot in the grey band cannot be told from real pictures by that number; bars are "
        "two standard errors over other seeds. Each feature space is another pair of eyes, and sees only what its "
        "network has learnt to see."
    )
    for title, chart in drawn:
        page.figure(chart, title)
    rows = [r for name in SCALES for r in result.records if r.name == name]
    page.table([_row(r, ratio=True) for r in rows], caption="All distances, with standard errors")


def _row(record: MetricRecord, *, ratio: bool = False) -> dict[str, object]:
    found: dict[str, object] = {
        "metric": record.name,
        "space": record.space.replace("-", "\N{NON-BREAKING HYPHEN}") or "–",
        "value": _shown(record.value),
        "± over seeds": "–" if math.isnan(record.stderr) else _shown(record.stderr, 2),
        "real pictures": "–" if record.null is None else _shown(record.null),
    }
    if ratio:
        known = SCALES[record.name].ratio and record.ratio is not None
        found["ratio"] = _shown(record.ratio, 3) if known else "–"
    z = record.z
    found["z"] = "–" if z is None else f"{z:+.1f}".replace("-", "−")
    return {**found, "good is": {"low": "low", "high": "high", "null": "real"}[record.better], "n": record.n}


def _other_numbers(page: Page, result: EvaluationResult) -> None:
    rest = [r for r in result.records if r.name not in SCALES and not r.name.startswith("log power")]
    if not rest and "spectrum" not in result.curves:
        return
    page.section("Other numbers")
    if "spectrum" in result.curves:
        page.figure(
            spectrum_figure(result.curves["spectrum"]),
            "Power of fine and coarse detail. Samples below real pictures on the right are blurred, above them noisy.",
        )
    if rest:
        page.table([_row(record) for record in rest])


def _memorisation(page: Page, result: EvaluationResult, pictures: EvaluationPictures) -> None:
    found = result.memorisation
    if not found:
        return
    page.section("Are training pictures copied?")
    page.text(str(found["verdict"]))
    if found.get("samples") and found.get("held_out"):
        page.figure(
            nearest_neighbours(found["samples"], found["held_out"]),
            f"Distance to the nearest training picture in the space {found.get('space', '')}. Copies lie at the left, "
            "nearer than pictures that the model has never seen.",
        )
    if "levels" in result.curves:
        page.figure(
            levels_figure(result.curves["levels"]),
            f"{result.curves['levels'].get('verdict', '')} Zero is no memory; bars are two standard errors.",
        )
    if pictures.suspicious is not None:
        page.picture(
            _strip(*pictures.suspicious), "The samples that are nearest to a single training picture, each above it."
        )


def _strip(samples: PictureSet, neighbours: PictureSet) -> Image.Image:
    rows = list(range(min(len(samples), _STRIP)))
    cells = [*_images(samples, rows), *_images(neighbours, rows)]
    return grid(cells, columns=len(rows), row_labels=["sample", "training"])


def _classes(page: Page, result: EvaluationResult) -> None:
    if result.classes:
        page.section("Class by class")
        page.table([{k: _shown(v, 3) for k, v in row.items()} for row in result.classes])


def _shown(value: Any, digits: int = 4) -> object:
    return f"{value:.{digits}g}".replace("-", "−") if isinstance(value, float) else value


def _origins(page: Page, result: EvaluationResult) -> None:
    page.section("What the numbers depend on")
    page.text(
        "Two numbers compare only when all of this is equal but the model, its weights, the sampling and the seeds. "
        "kakusan eval RUN --against OTHER/eval.json does so, and refuses the rest."
    )
    if result.records:
        of = result.records[0].of
        rows: list[Mapping[str, object]] = [
            {"fact": "model", "value": of.model},
            {"fact": "weights", "value": of.weights or "–"},
            *({"fact": k.replace("_", " "), "value": _words(v)} for k, v in of.sampling.items()),
            {"fact": "seeds", "value": of.seeds or "–"},
            {"fact": "conditions", "value": of.conditions},
            {"fact": "real pictures (hash)", "value": of.reference},
            {"fact": "samples became integers by", "value": of.quantiser},
        ]
        spaces = {r.space: r.of for r in result.records if r.space}
        rows += [
            {"fact": f"space {k} (hash, resizer)", "value": f"{v.extractor}, {v.resizer}"} for k, v in spaces.items()
        ]
        page.table(rows)
    page.table([{"circumstance": k.replace("_", " "), "value": _words(v)} for k, v in result.circumstances.items()])


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_words(v) for v in value)
    return style.number(value) if isinstance(value, float) else str(value)
