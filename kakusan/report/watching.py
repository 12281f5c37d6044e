"""The curves of watched distances on a run's page, and the page and picture that `kakusan watch` writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from kakusan.metrics.record import MetricRecord
from kakusan.metrics.watching import DEVIATIONS, RATIO, Point, one_curve, scaled, verdict
from kakusan.report.curves import Chart, distance_curve
from kakusan.report.page import Page

GOALS = {"low": "lower is better", "high": "higher is better", "null": "best at the dashed line"}


def distance_charts(points: Sequence[Point], kept: Collection[int] | None = None) -> dict[str, Chart]:
    """One chart for each distance, the choosing one first, with a line for each feature space."""
    curve = one_curve(points)
    if not curve:
        return {}
    found = verdict(points, kept)
    best = None if found is None else found.best.step
    names = list(dict.fromkeys(record.name for record in curve[-1].records))
    return {name: _chart(name, curve, best) for name in names}


def _chart(name: str, curve: Sequence[Point], best: int | None) -> Chart:
    spaces = [record.space for record in curve[-1].records if record.name == name]
    # Spaces of one distance share an axis only when all have a null to divide by.
    rows = {space: [scaled(_get(point, name, space)) for point in curve] for space in spaces}
    ratio = all(row[3] for values in rows.values() for row in values)
    if not ratio:
        rows = {space: [scaled(_get(point, name, space), ratio=False) for point in curve] for space in spaces}
    return distance_curve(
        [point.step for point in curve],
        {space: ([v[0] for v in values], [v[1] for v in values]) for space, values in rows.items()},
        label=f"{name}, {'times real' if ratio else 'deviations from real'}",
        null=1.0 if ratio else 0.0,
        spread=max(values[-1][2] for values in rows.values()),
        best=best,
    )


def _get(point: Point, name: str, space: str) -> MetricRecord:
    found = point.get(name, space)
    assert found is not None
    return found


def add_distances(page: Page, points: Sequence[Point], *, where: str, kept: Collection[int] | None = None) -> None:
    """The section about distances, if any were measured.

    Args:
        page: to add to.
        points: of the run.
        where: the run's folder, for the command that draws from its best checkpoint.
        kept: steps that still have a checkpoint; all when not given.
    """
    found = verdict(points, kept)
    if found is None:
        return
    page.section("Distances to real pictures")
    page.text(*(_sentence(line) for line in found.lines()))
    if found.best.step != found.last.step:
        page.code(f"kakusan sample {where}/best --num 16")
    curve = one_curve(points)
    if len(curve) > 1:
        page.text(
            f"{found.last.records[0].n} samples of the same seeds at every point, beside real pictures. The dashed "
            "line is what real pictures score in the place of the samples, its band one standard deviation of that. "
            "Bands of the curves are one standard error over other samples."
        )
        for name, chart in distance_charts(points, kept).items():
            page.figure(chart, _caption(name, curve[-1]))
    page.table([_row(record, found.last.step) for record in found.last.records], caption=f"At step {found.last.step}")


def _caption(name: str, point: Point) -> str:
    record = next(r for r in point.records if r.name == name)
    return f"{name[:1].upper()}{name[1:]}: {GOALS[record.better]}."


def _sentence(line: str) -> str:
    line = line.strip()
    return f"{line[:1].upper()}{line[1:]}."


def _row(record: MetricRecord, step: int) -> Mapping[str, object]:
    height, _, _, ratio = scaled(record)
    return {
        "distance": record.name,
        "space": record.space,
        "value": record.value,
        "standard error": record.stderr,
        "real pictures": record.null,
        "in words": f"{height:.2f} {RATIO if ratio else DEVIATIONS}",
    }


def write_watch_page(points: Sequence[Point], folder: Path, *, kept: Collection[int] | None = None) -> None:
    """`watch.html`, and `watch.png` from the second point on, of a run that is followed."""
    if not points:
        return
    page = Page(folder.resolve().name, f"{len(points)} {'checkpoint' if len(points) == 1 else 'checkpoints'} measured")
    add_distances(page, points, where=str(folder), kept=kept)
    page.write(folder / "watch.html")
    if len(one_curve(points)) > 1:
        next(iter(distance_charts(points, kept).values())).save(folder / "watch.png")
