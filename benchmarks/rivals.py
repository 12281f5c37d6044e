"""Diffusion beside a VAE, a GAN and a normalizing flow, trained in equal time on the embedded flowers.

    python benchmarks/rivals.py [--budget 90s] [--seeds 3] [--out FOLDER] [--write]

Runs `kakusan compare` as a user would and measures how long all of it takes: four kinds, three trainings of 90 s each,
judged, with the page, within 25 minutes on two cores. What the figures say of the field's claim is no bar: they may
refute it. `--write` puts the figures into docs/results/rivals.md and the samples beside it; the exit status says
whether everything was trained and judged in time. A folder that holds a part of the comparison already cannot be timed,
so `--out` is new or left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, finish, machine, table

from kakusan.metrics.claims import Finding, findings, sentence
from kakusan.metrics.contestants import Contestant, spread
from kakusan.metrics.sharpness import NAME
from kakusan.report.compare import over_spaces, sample_sheet
from kakusan.report.compare_figures import DISPLAYED
from kakusan.report.compare_parts import number, plus_minus

BAR_MINUTES = 25.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison, print or write the page, and say whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="90s")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary) / "compare"
        if out.exists():
            parser.error(f"{out} is there already; what is done is not done again, so it cannot be timed")
        command = ["compare", "--data", "flowers", "--size", "32", "--budget", options.budget]
        command += ["--seeds", str(options.seeds), "--threads", str(options.threads), "--out", str(out)]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "kakusan", *command], cwd=ROOT, check=True)
        minutes = (time.perf_counter() - began) / 60.0
        content = json.loads((out / "compare.json").read_text(encoding="utf-8"))
        contestants = [Contestant.from_record(values) for values in content["contestants"]]
        met = minutes <= BAR_MINUTES and content["facts"]["done"] == content["facts"]["of"]
        text = page(contestants, content["facts"], command[:-2], minutes, options.threads)
        if options.write:
            sheet = sample_sheet(contestants, content["facts"], out / "measured")
            if sheet is not None:
                sheet.save(RESULTS / "rivals.png")
        finish(text, RESULTS / "rivals.md" if options.write else None)
    print(f"{minutes:.1f} minutes, the bar is {BAR_MINUTES:g}: {'met' if met else 'missed'}", file=sys.stderr)
    return 0 if met else 1


def page(
    contestants: Sequence[Contestant], facts: dict[str, Any], command: Sequence[str], minutes: float, threads: int
) -> str:
    """The whole page, in Markdown."""
    decided = findings(contestants)
    kinds = dict.fromkeys(c.kind for c in contestants)
    found = {kind: [c for c in contestants if c.kind == kind and c.entry is not None] for kind in kinds}
    lost = [f"{DISPLAYED.get(c.kind, c.kind)} {c.seed}" for c in contestants if c.diverged]
    return "\n\n".join(
        [
            "# Diffusion and its rivals in equal time",
            f"`kakusan {' '.join(command)}`; written by `python benchmarks/rivals.py --write`.",
            sentence(decided),
            table(["Diffusion", "verdict", "figures"], [(f.claim, f.verdict, f.text) for f in decided], texts=3),
            "![the first sample of each class of the first training of each kind, nothing picked](rivals.png)",
            "The first sample of each class of the first training of each kind, nothing picked.",
            "## Figures",
            f"Mean ± standard deviation over {facts['settings']['seeds']} trainings, {facts['samples']} samples each. "
            "Figures of several spaces are taken together: the geometric mean of Frechet ratios, the mean of shares. "
            "Kinds covered: the share of real pictures whose species, hue of petals and background some sample has. "
            "Sharpness: high-frequency power beside real pictures.",
            _figures({kind: members for kind, members in found.items() if members}),
            "Diverged: " + (", ".join(lost) if lost else "none") + ".",
            "## Frechet ratio in each space",
            _spaces({kind: members for kind, members in found.items() if members}),
            "## Diffusion with fewer steps",
            _rungs(found.get("diffusion", [])),
            "## What the verdicts rest on",
            _evidence(decided),
            f"## Time\n\n{minutes:.1f} minutes in all, of which {_trained(contestants):.1f} of training. The bar is "
            f"{BAR_MINUTES:g} minutes on two cores: {'met' if minutes <= BAR_MINUTES else 'missed'}.",
            machine(threads),
        ]
    )


def _trained(contestants: Sequence[Contestant]) -> float:
    return sum(float(c.training.get("seconds", 0.0)) for c in contestants) / 60.0


def _figures(found: dict[str, list[Contestant]]) -> str:
    names = {"frechet": "Frechet ratio", "precision": "precision", "recall": "recall", "coverage": "coverage"}
    single = {"kinds covered": "kinds covered", "condition accuracy": "right class"}
    head = ["", *names.values(), *single.values(), "sharpness", "bits/dim", "ms a picture", "calls", "M parameters"]
    rows = []
    for kind, members in found.items():
        entries = [c.entry for c in members if c.entry is not None]
        row = [DISPLAYED.get(kind, kind)]
        row += [_cell([over_spaces(e, name) for e in entries]) for name in names]
        row += [_cell([r.value for e in entries if (r := e.find(name)) is not None]) for name in single]
        row.append(_cell([2.0**r.value for e in entries if (r := e.find(NAME)) is not None]))
        bits = _cell([r.value for e in entries if (r := e.find("bits per dimension")) is not None])
        row.append(bits if members[0].likelihood == "exact" or bits == "–" else f"≤ {bits}")
        row += [_cell([1e3 * e.seconds for e in entries]), number(entries[0].network_calls)]
        row.append(_cell([float(c.training["parameters"]) / 1e6 for c in members]))
        rows.append(row)
    return table(head, rows)


def _cell(values: Sequence[float]) -> str:
    return plus_minus(*spread(values)) if values else "–"


def _spaces(found: dict[str, list[Contestant]]) -> str:
    first = next(iter(found.values()))[0].entry
    spaces = [] if first is None else [r.space for r in first.records if r.name == "frechet"]
    rows = []
    for kind, members in found.items():
        row = [DISPLAYED.get(kind, kind)]
        for space in spaces:
            records = [r for c in members if c.entry is not None and (r := c.entry.find("frechet", space)) is not None]
            row.append(_cell([r.ratio or 0.0 for r in records]))
        rows.append(row)
    return table(["", *spaces], rows)


def _rungs(members: Sequence[Contestant]) -> str:
    counts = sorted({rung.num_steps or 0 for c in members for rung in c.rungs})
    rows = []
    for count in counts:
        rungs = [rung for c in members for rung in c.rungs if rung.num_steps == count]
        rows.append(
            [
                count,
                _cell([over_spaces(rung, "frechet") for rung in rungs]),
                _cell([1e3 * rung.seconds for rung in rungs]),
            ]
        )
    return table(["steps", "Frechet ratio", "ms a picture"], rows)


def _evidence(decided: Sequence[Finding]) -> str:
    rows = [
        (
            DISPLAYED.get(f.rival, f.rival),
            c.what,
            number(c.ours),
            number(c.theirs),
            plus_minus(c.lead, c.margin),
            c.verdict,
        )
        for f in decided
        for c in f.comparisons
    ]
    rules = "\n".join(f"- {f.claim}: {f.rule}." for f in decided)
    head = ["rival", "figure", "diffusion", "rival's", "lead of diffusion ± half its 95 % interval", "says"]
    return rules + "\n\n" + table(head, rows, texts=2)


if __name__ == "__main__":
    sys.exit(main())
