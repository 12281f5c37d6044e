"""Guidance from scale -10 to 10 and rescale from phi -10 to 10, in pictures and figures, of trained models.

    python benchmarks/guidance_pictures.py --run runs/demo --run runs/real-flowers [--work FOLDER] [--write]

Four sweeps of each run by the verb's own task: over the scale, over phi, over both, and over the scale once more with
more pictures for the figures. They lie in --work and go on where they stopped. A classifier trained on the run's own
training pictures says how many samples show the class that was asked for; of these pictures nothing is written.
`--write` puts the page and its sheets into docs/results; what is seen is said by hand in SEEN below.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import RESULTS, finish, machine, table

SCALES = (-10, -8, -6, -4, -2, 0, 1, 2, 4, 6, 8, 10)
PHIS = (-10, -8, -6, -4, -2, -1, 0, 0.7, 1, 2, 4, 6, 8, 10)
COARSE_SCALES = (-10, -5, -2, 0, 1, 2, 5, 10)
COARSE_PHIS = (-10, -5, -1, 0, 0.7, 1, 5, 10)
FIGURES = (-10, -5, -2, 0, 1, 2, 4, 7, 10)
STEPS, SEED, PICTURES, MEASURED, PHI_SCALE = 20, 3, 4, 32, 4.0

# Written after looking at the pictures; keyed by run and sheet.
SEEN: Mapping[tuple[str, str], str] = {
    ("demo", "scale"): """
        Column 0 is the model without a class: a white blossom, a red one, a pale one, an orange one. One unit
        of scale makes them the daisy, sunflower, poppy and iris that were asked for, on nearly the same
        background. From 4 on petals go flat, edges hard and colours pure; at 8 and 10 the sunflower's brown
        is black, its background dark green, and single pixels sparkle along its petals, while daisy and poppy
        bear the same scale well. Below 0 comes what the class is not: a red flower with a black centre for
        the white daisy with a yellow one, blue rings around white for the sunflower, blue and white for the
        red poppy, orange for the violet iris. At -2 these are still flowers of other classes (a pansy, a
        morning glory); from -4 down they are saturated shapes that hardly change any more.""",
    ("demo", "phi"): """
        Between 0 and 1, where phi is meant to lie, little happens: the sunflower's background goes a little
        grayer. Below 0 the spread that guidance added is added again, several times over: shapes stay,
        contrast grows, and at -10 two backgrounds are pure white and one is nearly black. Above 1 it breaks.
        At this scale the conditional output has 0.3 to 0.5 of the guided one's spread in the early steps
        (looked at over 10), so the factor 1 + phi (ratio - 1) passes through zero between phi 1.4 and 2, and
        beyond that the guided output is followed backwards: at 2 the flowers fall apart, and from 4 on the
        opposite class stands there, dark red for the daisy, blue for the poppy, yellow for the iris, under
        grain.""",
    ("demo", "both"): """
        The column of scale 1 does not move, as it must not: there is nothing to rescale. Rows 0 to 1 differ
        at large positive scales only in how white the daisy is; at -5 and -10 phi = 1 turns the red blot into
        a blue flower that can be recognised. The corners are the two ways to fail: phi far below 0 at any
        strong scale floods the picture with one colour, phi far above 1 gives the opposite class (scale 5 and
        10) or grain (scale -5 and -10).""",
    ("demo", "measured"): """
        The class is best met between 2 and 4; at 10 a quarter of the samples no longer pass for their class.
        Below 0 none does, and at 0, where no class is asked for, 4 of 32 do (chance is 2). Saturation is
        lowest between 0 and 1, doubles at 2, and negative scales saturate sooner than positive ones: -10
        brings half of all values to an end of the range, 10 a fifth.""",
    ("real-flowers", "scale"): """
        The same order with a model of photographs, which has less detail to begin with. At 1 the sunflower,
        the water lily and the rose are there but muddy; at 4 the sunflower has a black disc, a clean ring and
        a sky of one blue, and the water lily a glowing centre. The lenten rose is not made clearer by
        guidance: above 4 a green disc with magenta edges on white is left. Below 0 the backgrounds of the
        first two rows fall to black, and flowers turn into their opposite: a magenta blossom for the yellow
        sunflower, pink petals around a green gap for the white lily, violet for the red rose.""",
    ("real-flowers", "phi"): """
        At scale 4, phi = 1 takes back some of the sunflower's and the rose's glare, and no more. Below 0
        contrast grows until flowers are cut out of pure black (water lily) or white (lenten rose); the rose
        gets fuller and the lily smaller. Above 1 three of four pictures fall to grain from 4 on; this model
        makes coloured noise where the demo model made the opposite class. The lenten rose holds throughout,
        and at 10 is even the clearest flower of its row.""",
    ("real-flowers", "both"): """
        As with the demo model: scale 1 stands still, phi far below 0 leaves one flat shape (a red disc
        against black at negative scales, a black one against white at 5 and 10), and noise stands in the
        corner of scale 10 with phi 5 and 10. At scale 2 every phi from -10 to 10 gives a usable picture,
        since there is little spread to overdo; at scale -5 and -10 a phi of 0.7 or 1 adds blue and yellow and
        takes away the flat black.""",
    ("real-flowers", "measured"): """
        The class is met by 72% of the samples at 1, by all 32 at 4 and 7, and by 91% at 10. That is more than
        the judge gives held-out photographs (85%), so it says that guidance makes what is typical of a class,
        not that it makes better pictures: at 4 four times as many values are saturated as at 1, at 10 ten
        times as many. Negative scales hit the class never and saturate most. Of 32 pictures a share is known
        to about a tenth.""",
}


@dataclass(frozen=True)
class Sheet:
    """One sweep that is shown.

    Args:
        name: of its file.
        axes: as on the command line.
        num: pictures.
        title: of its section.
        options: of the sweep.
    """

    name: str
    axes: tuple[str, ...]
    num: int
    title: str
    options: tuple[tuple[str, Any], ...] = ()


def values(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


SHEETS = (
    Sheet("scale", (f"guidance-scale={values(SCALES)}",), PICTURES, "Guidance scale -10 ... 10"),
    Sheet(
        "phi",
        (f"rescale={values(PHIS)}",),
        PICTURES,
        f"Rescale phi -10 ... 10 at guidance scale {PHI_SCALE:g}",
        (("guidance_scale", PHI_SCALE),),
    ),
    Sheet(
        "both",
        (f"guidance-scale={values(COARSE_SCALES)}", f"rescale={values(COARSE_PHIS)}"),
        1,
        "Both: scale across, phi down",
    ),
)
MEASURE = Sheet("measured", (f"guidance-scale={values(FIGURES)}",), MEASURED, "")


def labels_of(run: Path) -> list[str]:
    """Four classes whose pictures differ."""
    import kakusan

    classes = kakusan.load(run).classes
    chosen = [name for name in ("daisy", "sunflower", "poppy", "iris") if name in classes]
    return [str(name) for name in (chosen if len(chosen) == PICTURES else classes[:PICTURES])]


def swept(run: Path, sheet: Sheet, work: Path, labels: Sequence[str]) -> Path:
    """The folder of a sweep, finished."""
    from kakusan.tasks.sweep import sweep

    out = work / f"{run.name}-{sheet.name}"
    options = dict(sheet.options)
    for line in sweep(
        run,
        sheet.axes,
        out,
        labels=labels if sheet.num <= PICTURES else (),
        num=sheet.num,
        num_steps=STEPS,
        seed=SEED,
        device="cpu",
        **options,
    ):
        print(f"{out.name}: {line}", flush=True)
    return out


def judged(run: Path, folder: Path) -> tuple[list[Sequence[str]], str]:
    """Rows of figures over the scale, and how good the judge is."""
    import numpy as np
    import torch

    from kakusan.metrics.classifier import train_classifier
    from kakusan.report.png import read_pixels
    from kakusan.tasks.eval_subjects import open_subject

    # Training the judge is the longest part; what it said is kept beside the pictures it said it of.
    told = folder / "judged.json"
    identity = hashlib.sha256((folder / "sweep.json").read_bytes()).hexdigest()
    kept = json.loads(told.read_text("utf-8")) if told.is_file() else {}
    if kept.get("sweep") == identity:
        return kept["rows"], kept["said"]
    subject = open_subject(run, data=None, weights=None, device=torch.device("cpu"), say=print)
    judge = train_classifier(subject.training, steps=300)
    held_out, spec = subject.held_out, subject.training.spec
    assert held_out.labels is not None
    some = range(min(len(held_out), 400))
    right = judge.accuracy(spec.to_model(held_out.read(list(some))), held_out.labels[: len(some)])
    found = json.loads((folder / "sweep.json").read_text("utf-8"))
    rows: list[Sequence[str]] = []
    for place in found["places"]:
        scale = place["values"]["guidance-scale"]
        cells = [cell for cell in found["cells"] if cell["values"]["guidance-scale"] == scale]
        stored = np.stack([np.asarray(read_pixels(folder / cell["file"])).transpose(2, 0, 1) for cell in cells])
        asked = torch.tensor([spec.classes.index(cell["label"]) for cell in cells])
        accuracy = judge.accuracy(spec.to_model(torch.from_numpy(stored)), asked)
        rows.append(
            (
                f"{scale:g}",
                f"{accuracy:.0%}",
                f"{place['saturated']:.1%}",
                f"{place['mean']:.3f}",
                f"{place['deviation']:.3f}",
                f"{place['distance']:.3f}",
            )
        )
    share = float(_saturated(held_out.read(list(some))))
    said = f"The judge is right for {right:.0%} of {len(some)} held-out pictures of the data; of their values "
    said += f"{share:.1%} are saturated."
    told.write_text(json.dumps({"sweep": identity, "rows": rows, "said": said}), "utf-8")
    return rows, said


def _saturated(stored: Any) -> Any:
    return ((stored == 0) | (stored == 255)).float().mean()


def seen(run: Path, sheet: str) -> str:
    """What was seen on a sheet, as a paragraph."""
    words = " ".join(SEEN.get((run.name, sheet), "").split())
    return textwrap.fill(words, 120, break_on_hyphens=False, break_long_words=False) + "\n"


def section(run: Path, work: Path, write: bool) -> str:
    """The part of the page about one run."""
    import kakusan

    labels = labels_of(run)
    pipeline = kakusan.load(run)
    size = " x ".join(map(str, pipeline.data.size))
    parts = [f"## {run.name}: {len(pipeline.classes)} classes, {size}\n"]
    for sheet in SHEETS:
        folder = swept(run, sheet, work, labels[:1] if sheet.num == 1 else labels)
        name = f"guidance-{run.name}-{sheet.name}.png"
        if write:
            shutil.copy(folder / "sheet.png", RESULTS / name)
        parts.append(f"### {sheet.title}\n\n![{sheet.title}, {run.name}]({name})\n")
        parts.append(seen(run, sheet.name))
    rows, said = judged(run, swept(run, MEASURE, work, ()))
    head = ("scale", "right class", "saturated", "mean", "deviation", "distance from scale 1")
    parts.append(f"### Figures over the scale\n\n{MEASURED} pictures at each scale, the classes in turn. {said}\n")
    parts.append(table(head, rows, texts=0) + "\n")
    parts.append(seen(run, "measured"))
    return "\n".join(part for part in parts if part.strip())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, action="append", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/guidance-pictures"))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    import torch

    runs = " ".join(f"--run {run}" for run in arguments.run)
    sections = [section(run, arguments.work, arguments.write) for run in arguments.run]
    page = PAGE.format(
        command=f"python benchmarks/guidance_pictures.py {runs} --write",
        steps=STEPS,
        seed=SEED,
        sections="\n".join(sections),
        machine=machine(torch.get_num_threads()),
    )
    finish(page, RESULTS / "guidance.md" if arguments.write else None)
    return 0


PAGE = """# Guidance from -10 to 10

    {command}

All pictures are samples of our own models, {steps} steps of DPM-Solver++(2M), seeds from {seed} on in order, none left
out; in a row the noise is the same. Scale 1 is the conditional model, 0 the unconditional one, above 1 the difference
of the two is followed further, below 0 it is followed the other way, away from the class. Phi of the rescale brings the
guided output to the standard deviation of the conditional one (1) or leaves it (0); beyond these two it overshoots.
Saturated is the share of values at an end of the range, distance the root mean square difference from the same seed at
scale 1, both in [0, 1]. `kakusan sweep` makes every sheet (docs/sweep.md).

{sections}
{machine}
"""

if __name__ == "__main__":
    raise SystemExit(main())
