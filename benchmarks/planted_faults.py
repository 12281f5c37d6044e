"""Are faults called by their name? Six faults planted in perfect samples, and perfect samples as they are.

    python benchmarks/planted_faults.py --write
    python benchmarks/planted_faults.py --data /path/to/pictures.zip --run runs/demo --write

Perfect samples of the embedded flowers are fresh renderings; of a folder or zip file, pictures set apart. Everything
changes with the seed: which pictures are dealt to the judge and to the reference, the judge, and the samples. Rows are
kept in `--kept` as they are measured, so a long run can be stopped and started again.
"""

from __future__ import annotations

import argparse
import collections
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import RESULTS, finish, machine, table
from torch import Tensor

from kakusan.data.flowers import SPECIES, draw_batch, pictures, sample_factors
from kakusan.data.source import ArrayPictures, open_data
from kakusan.metrics.classifier import Classifier
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.faults import FALSE_ALARMS, Examination, examine
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces import open_judge, open_spaces
from kakusan.runtime import tune

PERFECT = "none"
LABELED, UNLABELED = ("classifier", "random"), ("self-supervised", "patches", "random")


@dataclass
class Scene:
    """Everything of one seed.

    Args:
        reference: real pictures, with labels.
        samples: perfect ones, with labels.
        fresh: (class, number) -> further perfect pictures.
        networks: where judges and spaces are kept.
        seed: of all of it.
        labeled: whether labels are shown to the examination.
    """

    reference: Reference
    samples: PictureSet
    fresh: Callable[[int, int], Tensor]
    networks: Path | None
    seed: int
    labeled: bool = True
    _kept: list[tuple[Evaluation, Classifier | None]] = field(default_factory=list)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(77_000 + self.seed)

    def examine(self, samples: PictureSet) -> Examination:
        if not self._kept:
            known = self.reference if self.labeled else Reference(*map(unlabeled, parts_of(self.reference)))
            names = LABELED if self.labeled else UNLABELED
            spaces = open_spaces(names, known, folder=self.networks)
            judge = open_judge(known, folder=self.networks) if self.labeled else None
            self._kept.append((Evaluation(known, spaces, []), judge))
        evaluation, judge = self._kept[0]
        return examine(evaluation, samples if self.labeled else unlabeled(samples), judge=judge)


def parts_of(reference: Reference) -> tuple[PictureSet, PictureSet, PictureSet, PictureSet]:
    return reference.learning, reference.pool, reference.training, reference.held_out


def unlabeled(part: PictureSet) -> PictureSet:
    return replace(part, labels=None, spec=replace(part.spec, classes=()))


Plant = Callable[[Scene, float], PictureSet]


def changed(scene: Scene, x: Tensor) -> PictureSet:
    spec = scene.samples.spec
    return replace(scene.samples, stored=spec.to_stored(x))


def gaussian(x: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(4 * sigma))
    at = torch.arange(-reach, reach + 1).float()
    kernel = (-(at**2) / (2 * sigma**2)).exp()
    kernel = kernel / kernel.sum()
    channels = x.shape[1]
    for shape, pad in (((1, 1, 1, -1), (reach, reach, 0, 0)), ((1, 1, -1, 1), (0, 0, reach, reach))):
        weight = kernel.view(shape).repeat(channels, 1, 1, 1)
        x = F.conv2d(F.pad(x, pad, mode="replicate"), weight, groups=channels)
    return x


def blurred(scene: Scene, size: float) -> PictureSet:
    return changed(scene, gaussian(scene.samples.x(), size))


def box(scene: Scene, size: float) -> PictureSet:
    x = F.pad(scene.samples.x(), (1, 1, 1, 1), mode="replicate")
    return changed(scene, (1 - size) * scene.samples.x() + size * F.avg_pool2d(x, 3, 1))


def halved(scene: Scene, size: float) -> PictureSet:
    x = scene.samples.x()
    low = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    back = F.interpolate(low, size=x.shape[-2:], mode="bilinear")
    return changed(scene, (1 - size) * x + size * back)


def noisy(scene: Scene, size: float) -> PictureSet:
    x = scene.samples.x()
    return changed(scene, x + size * torch.randn(x.shape, generator=scene.generator()))


def peppered(scene: Scene, size: float) -> PictureSet:
    x, generator = scene.samples.x(), scene.generator()
    hit = torch.rand(x[:, :1].shape, generator=generator) < size
    return changed(scene, torch.where(hit, torch.rand(hit.shape, generator=generator).round() * 2 - 1, x))


def turned(scene: Scene, size: float) -> PictureSet:
    """Hues turned about the gray axis by `size` degrees."""
    angle = torch.tensor(size * np.pi / 180.0)
    axis = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
    turn = torch.eye(3) + angle.sin() * axis + (1 - angle.cos()) * axis @ axis
    return changed(scene, torch.einsum("dc,bchw->bdhw", turn, scene.samples.x()))


def swapped(scene: Scene, size: float) -> PictureSet:
    x = scene.samples.x()
    return changed(scene, (1 - size) * x + size * x.flip(1))


def tinted(scene: Scene, size: float) -> PictureSet:
    return changed(scene, scene.samples.x() + size * torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1))


def darkened(scene: Scene, size: float) -> PictureSet:
    return changed(scene, scene.samples.x() - size)


def faded(scene: Scene, size: float) -> PictureSet:
    x = scene.samples.x()
    return changed(scene, x + size * (x.mean(1, keepdim=True) - x))


def negative(scene: Scene, size: float) -> PictureSet:
    return changed(scene, (1 - 2 * size) * scene.samples.x())


def missing(scene: Scene, size: float) -> PictureSet:
    """A share of a class (another one for each seed) is replaced by pictures of the next class."""
    samples = scene.samples
    assert samples.labels is not None
    classes = len(samples.spec.classes)
    gone, filler = scene.seed * 5 % classes, (scene.seed * 5 + 1) % classes
    rows = (samples.labels == gone).nonzero()[:, 0]
    rows = rows[: round(size * len(rows))]
    stored = samples.stored.clone()
    if len(rows):
        stored[rows] = scene.fresh(filler, len(rows))
    return replace(samples, stored=stored)


def several(scene: Scene, size: float) -> PictureSet:
    """Several classes are replaced by pictures of the class after them."""
    samples, classes = scene.samples, len(scene.samples.spec.classes)
    assert samples.labels is not None
    stored, gone = samples.stored.clone(), [(scene.seed * 5 + i) % classes for i in range(round(size))]
    rows = torch.isin(samples.labels, torch.tensor(gone)).nonzero()[:, 0]
    stored[rows] = scene.fresh((gone[-1] + 1) % classes, len(rows))
    return replace(samples, stored=stored)


def copied(scene: Scene, size: float) -> PictureSet:
    """A share of the samples is training pictures of the class asked for with noise of 0.03."""
    samples, training, generator = scene.samples, scene.reference.training, scene.generator()
    rows = torch.randperm(len(samples), generator=generator)[: round(size * len(samples))]
    stored = samples.stored.clone()
    assert samples.labels is not None
    assert training.labels is not None
    for row in rows.tolist():
        same = (training.labels == samples.labels[row]).nonzero()[:, 0]
        source = int(same[int(torch.randint(len(same), (1,), generator=generator))])
        x = training.x(slice(source, source + 1))
        stored[row] = samples.spec.to_stored(x + 0.03 * torch.randn(x.shape, generator=generator))[0]
    return replace(samples, stored=stored)


def ignored(scene: Scene, size: float) -> PictureSet:
    """A share of the samples has its labels dealt out anew."""
    samples, generator = scene.samples, scene.generator()
    assert samples.labels is not None
    rows = torch.randperm(len(samples), generator=generator)[: round(size * len(samples))]
    labels = samples.labels.clone()
    labels[rows] = labels[rows[torch.randperm(len(rows), generator=generator)]]
    return replace(samples, labels=labels)


@dataclass(frozen=True)
class Planted:
    """A fault in one form.

    Args:
        fault: its name in the report.
        form: in words, with `{}` for the size.
        plant: makes it.
        size: planted in the table.
        sizes: of the detection curve.
    """

    fault: str
    form: str
    plant: Plant
    size: float
    sizes: tuple[float, ...] = ()


SIX = (
    Planted("blurred", "Gaussian blur of {:g} pixels", blurred, 0.8, (0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8)),
    Planted("noisy", "white noise of {:g} in [-1, 1]", noisy, 0.1, (0.01, 0.02, 0.03, 0.05, 0.1)),
    Planted("wrong colour", "hues turned by {:g} degrees", turned, 60.0, (5, 10, 15, 20, 30, 60)),
    Planted("mode missing", "{:.0%} of one class replaced by the next class", missing, 1.0, (0.6, 0.7, 0.8, 0.9, 1.0)),
    Planted(
        "copies",
        "{:.0%} of the samples are training pictures with noise of 0.03",
        copied,
        0.15,
        (0.02, 0.04, 0.06, 0.1, 0.15),
    ),
    Planted("labels ignored", "{:.0%} of the labels dealt out anew", ignored, 1.0, (0.05, 0.1, 0.15, 0.2, 0.5, 1.0)),
)
OTHERS = (
    Planted("blurred", "mean of 3 x 3 pixels", box, 1.0),
    Planted("blurred", "half the size and back", halved, 1.0),
    Planted("noisy", "{:.0%} of the pixels black or white", peppered, 0.02),
    Planted("noisy", "white noise of {:g}", noisy, 0.3),
    Planted("wrong colour", "red and blue exchanged", swapped, 1.0),
    Planted("wrong colour", "red +{0:g}, blue -{0:g}", tinted, 0.1),
    Planted("wrong colour", "darker by {:g}", darkened, 0.15),
    Planted("wrong colour", "{:.0%} of the way to gray", faded, 0.5),
    Planted("wrong colour", "negative", negative, 1.0),
    Planted("labels ignored", "{:.0%} of the labels dealt out anew", ignored, 0.3),
)


def flowers(seed: int, n: int, *, networks: Path | None, labeled: bool = True, first: int = 0) -> Scene:
    """Flowers at 32 x 32: 2048 for training, 512 held out, fresh renderings as samples."""
    whole, held = pictures(32, 2048), pictures(32, 512, "held-out")
    start = 1_000_000 * (seed + 1) + first

    def render(at: int, labels: Tensor) -> Tensor:
        factors = [sample_factors(4242, at + i, SPECIES[int(k)]) for i, k in enumerate(labels)]
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(draw_batch(factors, 32), -1, 1)))

    reference = Reference.of(whole, held, seed=seed)
    labels = reference.proportions(n)
    assert labels is not None
    samples = PictureSet(render(start, labels), reference.pool.spec, labels)
    return Scene(
        reference,
        samples,
        lambda k, number: render(start + 500_000, torch.full((number,), k)),
        networks,
        seed,
        labeled,
    )


def of_files(path: str, classes: int) -> Callable[..., Scene]:
    """Pictures of a folder or zip file at 32 x 32: its largest classes, a tenth held out, samples set apart."""
    found = open_data(path, size=32, cache="off")
    assert found.labels is not None
    counts = torch.bincount(found.labels)
    largest = counts.argsort(descending=True, stable=True)[:classes].sort().values.tolist()

    def make(seed: int, n: int, *, networks: Path | None, labeled: bool = True) -> Scene:
        assert found.labels is not None
        generator = torch.Generator().manual_seed(500 + seed)
        spec = replace(found.spec, classes=tuple(found.spec.classes[k] for k in largest))
        share = n / sum(int(counts[k]) for k in largest)
        chosen: dict[str, list[tuple[int, int]]] = {name: [] for name in ("own", "spare", "held", "train")}
        for new, old in enumerate(largest):
            rows = (found.labels == old).nonzero()[:, 0]
            rows = rows[torch.randperm(len(rows), generator=generator)].tolist()
            cut = round(len(rows) * share)
            ends = (0, cut, 2 * cut, 2 * cut + len(rows) // 10, len(rows))
            for name, low, high in zip(chosen, ends, ends[1:], strict=False):
                chosen[name] += [(row, new) for row in rows[low:high]]

        def part(name: str) -> ArrayPictures:
            rows = [row for row, _ in chosen[name]]
            return ArrayPictures(spec, found.read(rows).numpy(), labels=[k for _, k in chosen[name]])

        own, spare, held, train = (part(name) for name in chosen)
        spare_labels = spare.labels
        assert spare_labels is not None

        def fresh(k: int, number: int) -> Tensor:
            rows = (spare_labels == k).nonzero()[:, 0]
            return spare.read(rows[torch.arange(number) % len(rows)].numpy())

        return Scene(Reference.of(train, held, seed=seed), PictureSet.read(own), fresh, networks, seed, labeled)

    return make


def said(found: Examination) -> str:
    return ", ".join(fault.name for fault in found.faults) or PERFECT


class Kept:
    """Answers by key, on disk as they come."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.exists() else {}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self.known:
            start = time.process_time()
            self.known[key] = compute()
            print(f"{key}: {self.known[key]} ({time.process_time() - start:.0f} s)", flush=True)
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_text(json.dumps(self.known, indent=1))
        return self.known[key]


def answers(kept: Kept, where: str, scenes: list[Callable[[], Scene]], case: Planted | None, size: float) -> list[Any]:
    """(what was said, p of the planted fault) for each seed."""

    def ask(scene: Scene) -> tuple[str, float]:
        found = scene.examine(scene.samples if case is None else case.plant(scene, size))
        return said(found), min(found.p.values()) if case is None else found.p.get(case.fault, 1.0)

    name = PERFECT if case is None else f"{case.plant.__name__} {size:g}"
    return [kept.get(f"{where} | {name} | {i}", lambda s=s: ask(s())) for i, s in enumerate(scenes)]  # type: ignore[misc]


def verdicts(kept: Kept, where: str, scenes: list[Callable[[], Scene]], cases: tuple[Planted, ...]) -> str:
    """A table: what was planted, how often it was named and nothing else."""
    rows: list[list[object]] = []
    for case in (None, *cases):
        found = answers(kept, where, scenes, case, 0.0 if case is None else case.size)
        right = PERFECT if case is None else case.fault
        exact = sum(said == right for said, _ in found)
        other = collections.Counter(said for said, _ in found if said != right)
        form = "perfect samples" if case is None else case.form.format(case.size)
        chances = [p for _, p in found]
        worst = f"{min(chances):.2f} least" if case is None else f"{max(chances):.0e}"
        wrong = "; ".join(f"{said}: {number}" for said, number in other.items())
        rows.append([right, form, f"{exact} of {len(found)}", worst, wrong])
    return table(("fault", "planted", "named alone", "p, largest", "said instead"), rows, texts=2)


def curve(kept: Kept, where: str, scenes: list[Callable[[], Scene]], cases: tuple[Planted, ...]) -> str:
    """A table: how often a fault of each size was named."""
    rows: list[list[object]] = []
    for case in cases:
        cells = []
        for size in case.sizes:
            found = answers(kept, where, scenes, case, size)
            named = sum(case.fault in said.split(", ") for said, _ in found)
            cells.append(f"{size:g}: {named}/{len(found)}")
        rows.append([case.fault, case.form.replace("{:g}", "x").replace("{:.0%}", "x"), ", ".join(cells)])
    return table(("fault", "planted, of size x", "x: named / seeds"), rows, texts=3)


def alarms(kept: Kept, networks: Path | None, n: int, seeds: int, sets: int) -> str:
    """A sentence: how often further perfect samples of the flowers were given a fault."""
    total, wrong = 0, []
    for seed in range(seeds):
        keep: list[Scene] = []
        for number in range(sets):

            def ask(seed: int = seed, number: int = number, keep: list[Scene] = keep) -> str:
                fresh = flowers(seed, n, networks=networks, first=1000 * (number + 1))
                keep[:] = keep or [fresh]
                return said(keep[0].examine(fresh.samples))

            answer = kept.get(f"alarms {n} | {seed} | {number}", ask)
            total += 1
            if answer != PERFECT:
                wrong.append(answer)
    return f"{len(wrong)} of {total} further sets of perfect samples were given a fault{': ' if wrong else ''}" + (
        "; ".join(wrong) + "."
    )


def of_run(kept: Kept, run: str, n: int, networks: Path | None) -> str:
    """What is found in samples of a trained model, in its own words."""
    from kakusan.pipeline import load
    from kakusan.train.reopen import reopen_parts

    pipeline = load(Path(run))
    training, held_out = reopen_parts(pipeline)

    def ask() -> list[str]:
        reference = Reference.of(training, held_out, most=2000)
        labels = reference.proportions(n)
        x = pipeline.sample_tensor(labels=None if labels is None else labels.tolist(), num=n, seed=1, batch=64)
        samples = PictureSet.sampled(x, reference.pool.spec, labels)
        judge = open_judge(reference, folder=networks)
        spaces = open_spaces(LABELED if judge is not None else UNLABELED, reference, folder=networks)
        found = examine(Evaluation(reference, spaces, []), samples, judge=judge)
        return [f"**{f.name}** (p = {f.p:.0e}). {f.verdict}" for f in found.faults] + list(found.notes)

    lines: list[str] = kept.get(f"run {run} {n}", ask)
    return "\n".join(f"- {line}" for line in lines) or "Nothing was found."


def lazily(make: Callable[[], Scene]) -> Callable[[], Scene]:
    """Made once, when it is first needed."""
    made: list[Scene] = []

    def get() -> Scene:
        if not made:
            made.append(make())
        return made[0]

    return get


def scenes_of(make: Callable[..., Scene], options: argparse.Namespace, **more: Any) -> list[Callable[[], Scene]]:
    return [
        lazily(lambda seed=seed: make(seed, options.n, networks=options.networks, **more))  # type: ignore[misc]
        for seed in range(options.seeds)
    ]


def sections(kept: Kept, options: argparse.Namespace) -> Iterator[str]:
    """The page, part by part."""
    form = "{:g} classes replaced by the one after them"
    more = tuple(Planted("mode missing", form, several, size) for size in (2.0, 4.0))
    five = tuple(case for case in SIX if case.fault != "labels ignored") + more
    labeled = scenes_of(flowers, options)
    yield "## Embedded flowers, 32 x 32, 16 species\n\n" + verdicts(kept, f"flowers {options.n}", labeled, SIX + OTHERS)
    free = scenes_of(flowers, options, labeled=False)
    yield "## The same without labels\n\n" + verdicts(kept, f"unlabeled {options.n}", free, five)
    if options.data is not None:
        kinds = of_files(options.data, options.classes)
        name = f"{Path(options.data).name}, its {options.classes} largest classes, 32 x 32"
        where = f"data {options.classes} {options.n}"
        yield f"## {name}\n\n" + verdicts(kept, where, scenes_of(kinds, options), SIX)
        unnamed = scenes_of(kinds, options, labeled=False)
        yield "## The same without labels\n\n" + verdicts(kept, f"{where} unlabeled", unnamed, five)
    if options.run is not None:
        found = of_run(kept, options.run, options.n, options.networks)
        yield f"## Samples of {options.run}\n\n{options.n} samples as `kakusan sample` draws them:\n\n{found}"
    if not options.no_curves:
        few = labeled[: options.curve_seeds]
        yield "## How small a fault may be\n\n" + curve(kept, f"flowers {options.n}", few, SIX)
        yield "## False alarms\n\n" + alarms(kept, options.networks, options.n, options.seeds, options.sets)


def main() -> None:
    """Measure, print, and write the page when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=256, help="samples")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--curve-seeds", type=int, default=3)
    parser.add_argument("--sets", type=int, default=4, help="further perfect sets for each seed")
    parser.add_argument("--no-curves", action="store_true")
    parser.add_argument("--data", help="folder or zip file of real pictures in classes")
    parser.add_argument("--classes", type=int, default=10, help="how many of its largest classes")
    parser.add_argument("--run", help="a trained run, whose samples are examined too")
    parser.add_argument("--networks", type=Path, help="a folder where judges and spaces are kept")
    parser.add_argument("--kept", type=Path, help="a file where answers are kept")
    parser.add_argument("--write", action="store_true", help="write docs/results/planted-faults.md")
    options = parser.parse_args()
    tune(threads=1)
    torch.set_num_threads(1)
    kept = Kept(options.kept)
    text = PAGE.format(n=options.n, seeds=options.seeds, rate=f"{FALSE_ALARMS:.0%}", machine=machine(1))
    page = text + "\n\n".join(sections(kept, options))
    finish(page, RESULTS / "planted-faults.md" if options.write else None)


PAGE = """# Planted faults

`python benchmarks/planted_faults.py --write`, {n} samples, {seeds} seeds of everything: the deal of the real pictures,
the judge, the samples. A row says what was planted in perfect samples and how often the report named that and nothing
else. Perfect samples may be given a fault in {rate} of the cases by design. p is the chance of such evidence from real
pictures; a fault is named below a sixth of {rate}.

{machine}

"""


if __name__ == "__main__":
    main()
