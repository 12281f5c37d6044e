"""The page of a contest: diffusion beside its rivals, and what became of the field's claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from kakusan.metrics.claims import Finding, sentence
from kakusan.metrics.contestants import Contestant, Entry, spread
from kakusan.metrics.record import MetricRecord
from kakusan.metrics.sharpness import HIGH, NAME
from kakusan.report.compare_figures import DISPLAYED, Series, by_row, colour_of, quality_against, spectra
from kakusan.report.compare_parts import number, plus_minus, strips
from kakusan.report.page import Page

_OTHERS = {"kinds covered": "kinds covered", "condition accuracy": "right class"}


def contest_page(
    contestants: Sequence[Contestant], findings: Sequence[Finding], facts: Mapping[str, Any], pictures: Path
) -> Page:
    """The whole page.

    Args:
        contestants: what was trained and measured, perhaps not all that was asked for.
        findings: what became of the claim.
        facts: settings and circumstances.
        pictures: folder with a strip of pictures for each entry and for real ones.
    """
    settings = facts["settings"]
    models = ", ".join(DISPLAYED.get(kind, kind) for kind in settings["models"])
    page = Page(
        "Diffusion beside its rivals",
        f"{models} on {settings['data']}, {settings['seconds']:g} s of training each, {_seeds(settings['seeds'])}",
    )
    if facts["done"] < facts["of"]:
        page.text(f"Not finished: {facts['done']} of {facts['of']} models. The same command goes on from here.")
    _claims(page, findings)
    _samples(page, contestants, facts, pictures)
    kinds = {kind: [c for c in contestants if c.kind == kind and c.entry is not None] for kind in settings["models"]}
    kinds = {kind: found for kind, found in kinds.items() if found}
    if kinds:
        _overview(page, kinds)
        _quality(page, kinds)
        _coverage(page, kinds)
        _sharpness(page, kinds)
        _cost(page, kinds)
        _likelihood(page, kinds)
    _evidence(page, findings)
    _stability(page, contestants)
    _circumstances(page, contestants, facts)
    return page


def _seeds(count: int) -> str:
    return "one training" if count == 1 else f"{count} trainings"


def _claims(page: Page, findings: Sequence[Finding]) -> None:
    page.section("What the field claims, and what these figures say")
    page.text(sentence(findings))
    page.table([{"diffusion": f.claim, "verdict": f.verdict, "figures": f.text} for f in findings])


def _evidence(page: Page, findings: Sequence[Finding]) -> None:
    page.section("What the verdicts rest on")
    page.text("They are computed from the records in compare.json by these rules, with no hand in between.")
    page.table([{"diffusion": f.claim, "verdict": f.verdict, "rule": f.rule} for f in findings])
    rows = [
        {
            "rival": DISPLAYED.get(f.rival, f.rival),
            "figure": c.what,
            "diffusion": number(c.ours),
            "the rival": number(c.theirs),
            "lead of diffusion": f"{'+' if c.lead > 0 else ''}{plus_minus(c.lead, c.margin)}",
            "says": c.verdict,
        }
        for f in findings
        for c in f.comparisons
    ]
    if rows:
        page.text("± is half the 95 % interval over trainings and samples.")
        page.table(rows)


def _samples(page: Page, contestants: Sequence[Contestant], facts: Mapping[str, Any], pictures: Path) -> None:
    sheet = sample_sheet(contestants, facts, pictures)
    if sheet is not None:
        page.section("Samples")
        which = "first sample of each class" if facts["labels"] else "first samples"
        page.picture(sheet, f"The {which} of the first training of each kind, nothing picked.")


def sample_sheet(contestants: Sequence[Contestant], facts: Mapping[str, Any], pictures: Path) -> Image.Image | None:
    """Real pictures and samples of one contestant of each kind; None where no pictures are.

    Args:
        contestants: the first of each kind is shown.
        facts: with "labels", the classes of the pictures in a strip.
        pictures: folder of the strips.
    """
    shown: dict[str, Contestant] = {}
    for contestant in contestants:
        if contestant.entry is not None:
            shown.setdefault(contestant.kind, contestant)
    rows = [(DISPLAYED.get(c.kind, c.kind), pictures / f"{c.entry.name}.png") for c in shown.values() if c.entry]
    return strips([("real", pictures / "real.png"), *rows], list(facts["labels"]))


def _overview(page: Page, kinds: Mapping[str, Sequence[Contestant]]) -> None:
    page.section("All in one table")
    page.text(
        "Mean ± standard deviation over trainings. Figures of several spaces are taken together here: the geometric "
        "mean of the Frechet ratios, the mean of the shares. Sharpness: power of high frequencies beside real pictures."
    )
    rows = []
    for kind, found in kinds.items():
        entries = _entries(found)
        row: dict[str, object] = {"model": DISPLAYED.get(kind, kind)}
        for name in ("frechet", "precision", "recall", "coverage"):
            row["Frechet ratio" if name == "frechet" else name] = _cell([over_spaces(e, name) for e in entries])
        for name, title in _OTHERS.items():
            row[title] = _cell(_values(entries, name))
        row["sharpness"] = _cell([2.0**v for v in _values(entries, NAME)])
        row["ms a picture"] = _cell([1e3 * e.seconds for e in entries])
        rows.append({k: v for k, v in row.items() if v != "–"})
    real = {"model": "real pictures", "Frechet ratio": "1", "sharpness": "1"}
    some = _entries(next(iter(kinds.values())))[0]
    for name in ("precision", "recall", "coverage"):
        nulls = [r.null for r in some.records if r.name == name and r.null is not None]
        if nulls:
            real[name] = number(sum(nulls) / len(nulls))
    for name, title in _OTHERS.items():
        record = some.find(name)
        if record is not None and record.null is not None:
            real[title] = number(record.null)
    page.table([*rows, real])


def over_spaces(entry: Entry, name: str) -> float:
    """The records of a name in all spaces as one number: the geometric mean of Frechet ratios, the mean of shares."""
    records = [r for r in entry.records if r.name == name]
    if not records:
        return math.nan
    if name == "frechet":
        ratios = [r.ratio for r in records if r.ratio and r.ratio > 0]
        return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
    return sum(r.value for r in records) / len(records)


def _cell(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return plus_minus(*spread(finite)) if finite else "–"


def _quality(page: Page, kinds: Mapping[str, Sequence[Contestant]]) -> None:
    page.section("Quality")
    ratios = {k: _by_space(found, "frechet", lambda r: r.ratio) for k, found in kinds.items()}
    page.figure(
        by_row(ratios, label="Frechet distance beside real pictures   (better ←)", real=_ones(ratios, 1.0), log=True),
        "The Frechet distance in each feature space, as a multiple of that between two halves of real pictures. A "
        "large dot is the mean, the small ones are trainings.",
    )
    precision = {k: _by_space(found, "precision", lambda r: r.value) for k, found in kinds.items()}
    page.figure(
        by_row(precision, label="precision   (better →)", real=_nulls(kinds, "precision")),
        "How many samples lie where real pictures lie.",
    )
    _space_table(page, kinds, ("frechet", "kernel", "precision", "density"))


def _coverage(page: Page, kinds: Mapping[str, Sequence[Contestant]]) -> None:
    page.section("Coverage")
    for name, what in (
        ("coverage", "How many real pictures have a sample near them."),
        ("recall", "How many real pictures lie where samples lie. Samples far from everything raise it too."),
    ):
        values = {k: _by_space(found, name, lambda r: r.value) for k, found in kinds.items()}
        page.figure(by_row(values, label=f"{name}   (better →)", real=_nulls(kinds, name)), what)
    _space_table(page, kinds, ("recall", "coverage"))
    rows = []
    for kind, found in kinds.items():
        for contestant, entry in zip(found, _entries(found), strict=True):
            seen, covered = entry.kinds.get("seen"), entry.find("kinds covered")
            if seen is None or covered is None:
                continue
            balance = entry.find("kinds out of balance")
            rows.append(
                {
                    "model": DISPLAYED.get(kind, kind),
                    "training": contestant.seed,
                    "kinds seen": f"{seen[0]} (real {seen[1]})",
                    "real pictures whose kind is seen": _beside(covered),
                    "out of balance": "–" if balance is None else _beside(balance),
                    "hardly ever drawn": _short(entry.kinds.get("missing", ())),
                }
            )
    if rows:
        page.table(
            rows,
            caption="Mode collapse, counted: kinds of pictures by what a judge reads off them (of embedded flowers the "
            "species, the hue of the petals and the background), among samples and among as many real pictures.",
        )


def _beside(record: MetricRecord) -> str:
    null = "" if record.null is None else f" (real {record.null:.2f})"
    return f"{record.value:.2f} ± {record.stderr:.2f}{null}"


def _short(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"


def _sharpness(page: Page, kinds: Mapping[str, Sequence[Contestant]]) -> None:
    curves: dict[str, list[float]] = {}
    frequencies: Sequence[float] = ()
    for kind, found in kinds.items():
        each = [entry.spectrum for entry in _entries(found) if entry.spectrum]
        if each:
            frequencies = each[0]["frequencies"]
            columns = zip(*[spectrum["ratios"] for spectrum in each], strict=True)
            curves[kind] = [math.exp(sum(map(math.log, column)) / len(column)) for column in columns]
    if not curves:
        return
    page.section("Sharpness")
    page.figure(
        spectra(frequencies, curves, start=HIGH),
        "Power of every frequency beside that of real pictures, mean over trainings. Below the line at the right, in "
        "the shaded part, is blur; above it grain.",
    )


def _cost(page: Page, kinds: Mapping[str, Sequence[Contestant]]) -> None:
    page.section("Quality against the time for a picture")
    spaces = list(dict.fromkeys(r.space for f in kinds.values() for r in _entries(f)[0].records if r.name == "frechet"))
    for space in spaces:
        series = []
        for kind, found in kinds.items():
            columns = [c.rungs for c in found] if found[0].rungs else [[entry] for entry in _entries(found)]
            points = [_point(column, space) for column in zip(*columns, strict=False)]
            x, y, errors, notes = zip(*points, strict=True)
            series.append(Series(DISPLAYED.get(kind, kind), x, y, errors, notes, colour_of(kind)))
        page.figure(
            quality_against(series, x="seconds for a picture   (better ←)", y="Frechet ratio", real=1.0, columns=5),
            f"In the space {space}. Numbers at diffusion are its steps; bars are two standard errors over trainings.",
        )
    rows = []
    for kind, found in kinds.items():
        entries = _entries(found)
        rows.append(
            {
                "model": DISPLAYED.get(kind, kind),
                "ms a picture": _cell([1e3 * entry.seconds for entry in entries]),
                "network calls a picture": number(entries[0].network_calls),
                "million parameters": _cell([float(c.training["parameters"]) / 1e6 for c in found]),
                "pictures seen in training": _cell([float(c.training["samples"]) for c in found]),
            }
        )
    page.table(rows)


def _point(entries: Sequence[Entry], space: str) -> tuple[float, float, float, str]:
    records = [record for entry in entries if (record := entry.find("frechet", space)) is not None]
    ratios = [record.ratio or math.nan for record in records]
    mean, deviation = spread(ratios)
    own = sum(r.stderr / r.null for r in records if r.null) / len(records)
    error = own if len(ratios) == 1 else max(deviation, own) / math.sqrt(len(ratios))
    seconds = math.exp(sum(math.log(entry.seconds) for entry in entries) / len(entries))
    steps = entries[0].num_steps
    return seconds, mean, error, "" if steps is None else str(steps)


def _likelihood(page: Page, kinds: Mapping[str, Sequence[Contestant]]) -> None:
    rows = []
    for kind, found in kinds.items():
        records = [r for entry in _entries(found) if (r := entry.find("bits per dimension")) is not None]
        if records:
            rows.append(
                {
                    "model": DISPLAYED.get(kind, kind),
                    "bits per dimension": _cell([r.value for r in records]),
                    "± over pictures": f"{sum(r.stderr for r in records) / len(records):.2g}",
                    "what it is": "exact" if found[0].likelihood == "exact" else "an upper bound: the truth is less",
                    "held-out pictures": records[0].n,
                }
            )
        else:
            rows.append({"model": DISPLAYED.get(kind, kind), "bits per dimension": "–", "what it is": "it has none"})
    page.section("Likelihood")
    page.table(rows, caption="Of the same held-out pictures with their labels; lower is better.")


def _stability(page: Page, contestants: Sequence[Contestant]) -> None:
    page.section("Training")
    rows = []
    for contestant in contestants:
        facts, entry = contestant.training, contestant.entry
        went = "diverged" if contestant.diverged else "went through"
        back = int(facts.get("rollbacks", 0))
        rows.append(
            {
                "model": DISPLAYED.get(contestant.kind, contestant.kind),
                "training": contestant.seed,
                "it": went + (f", went back {back} times" if back else ""),
                "Frechet ratio": "–" if entry is None else number(over_spaces(entry, "frechet")),
                "steps": f"{facts.get('steps', 0):,}",
                "pictures seen": f"{facts.get('samples', 0):,}",
                "seconds": f"{facts.get('seconds', math.nan):.1f}",
                "note": contestant.trouble,
            }
        )
    if not any(row["note"] for row in rows):
        rows = [{k: v for k, v in row.items() if k != "note"} for row in rows]
    page.table(rows)
    lost = [f"{DISPLAYED.get(c.kind, c.kind)} {c.seed}" for c in contestants if c.diverged]
    page.text("Diverged: " + ", ".join(lost) + "." if lost else "No training diverged.")


def _circumstances(page: Page, contestants: Sequence[Contestant], facts: Mapping[str, Any]) -> None:
    page.section("How this was measured")
    settings = facts["settings"]
    records = next((c.entry.records for c in contestants if c.entry is not None), [])
    page.text(
        "All models were trained one after the other on the same pictures, with the same batch, the same threads and "
        "the same budget of time; what each took stands in the table. Their samples were asked for with the same "
        "classes, brought to the same integers and measured by the same judges, which have learnt from no picture that "
        "samples are compared with. No training was left out.",
        "A time for a picture is taken to repeat to a tenth on this machine.",
    )
    shown: dict[str, object] = {
        "samples of each model": facts["samples"],
        "threads": facts["threads"],
        "steps of the sampler": settings["steps"],
        "torch": facts["torch"],
    }
    shown |= {f"judge's {name}": f"{share:.1%} right" for name, share in facts["judge"].items()}
    page.facts(shown)
    seen: dict[str, str] = {r.space: r.of.extractor for r in records if r.space and r.of.extractor}
    page.table([{"space": name, "identity": hashed} for name, hashed in seen.items()], caption="Feature spaces")
    size = f" --size {settings['size']}" if settings["size"] else ""
    page.code(
        f"kakusan compare --data {settings['data']}{size} --budget {settings['seconds']:g}s "
        f"--models {','.join(settings['models'])} --seeds {settings['seeds']} --num {settings['num']}"
    )


def _entries(found: Sequence[Contestant]) -> list[Entry]:
    return [c.entry for c in found if c.entry is not None]


def _values(entries: Sequence[Entry], name: str) -> list[float]:
    return [record.value for entry in entries if (record := entry.find(name)) is not None]


def _by_space(found: Sequence[Contestant], name: str, value: Any) -> dict[str, list[float]]:
    rows: dict[str, list[float]] = {}
    for entry in _entries(found):
        for record in entry.records:
            if record.name == name:
                rows.setdefault(record.space, []).append(math.nan if value(record) is None else value(record))
    return rows


def _ones(values: Mapping[str, Mapping[str, object]], real: float) -> dict[str, float]:
    return {row: real for found in values.values() for row in found}


def _nulls(kinds: Mapping[str, Sequence[Contestant]], name: str) -> dict[str, float]:
    entry = _entries(next(iter(kinds.values())))[0]
    return {r.space: r.null for r in entry.records if r.name == name and r.null is not None}


def _space_table(page: Page, kinds: Mapping[str, Sequence[Contestant]], names: Sequence[str]) -> None:
    rows = []
    keys = list(
        dict.fromkeys((r.name, r.space) for f in kinds.values() for r in _entries(f)[0].records if r.name in names)
    )
    for name, space in sorted(keys, key=lambda key: names.index(key[0])):
        row: dict[str, object] = {"figure": _figure(name), "space": space}
        for kind, found in kinds.items():
            records = [r for e in _entries(found) if (r := e.find(name, space)) is not None]
            row[DISPLAYED.get(kind, kind)] = _cell([_shown(r) for r in records])
        rows.append(row)
    page.table(rows, caption="Mean ± standard deviation over trainings")


def _figure(name: str) -> str:
    return {"frechet": "Frechet, ratio to real", "kernel": "kernel, z against real"}.get(name, name)


def _shown(record: MetricRecord) -> float:
    found = {"frechet": record.ratio, "kernel": record.z}.get(record.name, record.value)
    return math.nan if found is None else found
