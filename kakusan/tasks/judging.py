"""One measure for all: samples of any model to an `Entry`, with the same real pictures, spaces and distances."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kakusan.data.source import Pictures
from kakusan.metrics.contestants import Entry, kept, save
from kakusan.metrics.distance import Splits
from kakusan.metrics.distances import DISTANCES
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.kinds import Kinds, count_kinds, open_kinds
from kakusan.metrics.record import MetricRecord, digest
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.sharpness import SharpnessJudge
from kakusan.metrics.spaces import default_spaces, open_spaces
from kakusan.tasks.eval_samples import PictureModel, draw_samples

Say = Callable[[str], None]

CHOSEN = ("frechet", "kernel", "precision", "recall", "density", "coverage")
QUICK = ("frechet",)
TIMING = 0.1
"""Relative error that a time is taken to have: on a machine with other work, times repeat to about a tenth."""
SHOWN = 16


@dataclass(frozen=True)
class Way:
    """How to draw.

    Args:
        name: of the entry and its files.
        run: what the model is called.
        kind: "diffusion", or the kind of a rival.
        sampler: of a diffusion model; the usual one when "".
        num_steps: of the sampler; None for rivals.
        guidance_scale: of the sampler; None for rivals.
        quick: measure the quality only.
    """

    name: str
    run: str
    kind: str
    sampler: str = ""
    num_steps: int | None = None
    guidance_scale: float | None = None
    quick: bool = False


@dataclass
class Judging:
    """What all models are measured by.

    Args:
        evaluation: real pictures, spaces and distances.
        kinds: reads what pictures show; None where nothing is known of them.
        num: samples of each model.
        seed: of the samples.
        batch: samples drawn at once.
        folder: where what was measured is kept.
    """

    evaluation: Evaluation
    kinds: Kinds | None
    num: int
    seed: int
    batch: int
    folder: Path
    sharp: SharpnessJudge = field(init=False)

    def __post_init__(self) -> None:
        self.sharp = SharpnessJudge(self.evaluation)

    @classmethod
    def open(
        cls,
        source: str,
        training: Pictures,
        held_out: Pictures,
        folder: Path,
        *,
        num: int,
        seed: int = 0,
        batch: int = 128,
        spaces: Sequence[str] = (),
        splits: Splits,
        say: Say,
    ) -> Judging:
        """Deal out the real pictures and open spaces and judges, which are learnt once and kept in `folder`.

        Args:
            source: where the pictures are from, by which it is known what can be read off them.
            training: what the models are trained on.
            held_out: what they are not trained on.
            folder: of the comparison.
            num: samples of each model.
            seed: of the samples.
            batch: samples drawn at once.
            spaces: feature spaces; the usual ones when empty.
            splits: how distances are set beside their null: the fewer, the faster.
            say: takes lines for people.

        Raises:
            ValueError: too few real pictures, or an unknown space.
        """
        reference = Reference.of(training, held_out)
        if num > reference.most():
            say(f"measured on {reference.most()} samples, not {num}: there are {len(reference.pool)} real pictures")
            num = reference.most()
        names = tuple(spaces) or default_spaces(reference)
        opened = open_spaces(names, reference, folder=folder / "judges", say=say)
        evaluation = Evaluation(reference, opened, [DISTANCES[name]() for name in CHOSEN], splits)
        kinds = open_kinds(source, reference, folder=folder / "judges", say=say)
        if kinds is not None:
            rights = ", ".join(f"{name} {share:.1%}" for name, share in kinds.accuracy.items())
            say(f"kinds of pictures are read by a judge that is right in: {rights}")
        return cls(evaluation, kinds, num, seed, batch, folder / "measured")

    def key(self, model_hash: str, way: Way, threads: int) -> str:
        """Identity of everything that a measurement depends on."""
        spaces = [space.hash for space in self.evaluation.spaces]
        distances = [[d.name, dict(d.settings())] for d in self.evaluation.distances]
        kinds = None if self.kinds is None else self.kinds.hash
        facts = [self.evaluation.reference.hash, spaces, distances, self.evaluation.splits.settings(), kinds]
        return digest([facts, self.num, self.seed, self.batch, threads, model_hash, vars(way)])

    def measure(self, model: PictureModel, way: Way, say: Say) -> Entry:
        """Draw and measure, or read what was measured before with the same settings.

        Raises:
            ValueError: samples that are not finite.
        """
        key, place = self.key(model.model_hash, way, torch.get_num_threads()), self.folder / f"{way.name}.json"
        before = kept(place, key)
        if before is not None:
            return Entry.from_record(before["entry"])
        given: dict[str, Any] = {}
        if way.num_steps is not None:
            given = {"num_steps": way.num_steps, "guidance_scale": way.guidance_scale, "sampler": way.sampler or None}
        reference = self.evaluation.reference
        samples = draw_samples(model, reference, num=self.num, seed=self.seed, batch=self.batch, **given)
        entry = self.judged(samples, way)
        draw_strip(samples, self.folder / f"{way.name}.png")
        save(place, key, {"entry": entry.record()})
        best = next((r for r in entry.records if r.name == "frechet"), None)
        if best is not None and best.ratio is not None:
            say(f"  {way.name}: Frechet ratio {best.ratio:.2f} ({best.space}), {entry.seconds:.2g} s a picture")
        return entry

    def quick(self) -> Evaluation:
        """The quality only."""
        some = [distance for distance in self.evaluation.distances if distance.name in QUICK]
        return replace(self.evaluation, distances=some, _known=self.evaluation._known)

    def judged(self, samples: PictureSet, way: Way) -> Entry:
        """Every figure of some samples."""
        evaluation, origin = self.quick() if way.quick else self.evaluation, samples.origin
        records = list(evaluation.measure(samples))
        seconds = float(origin.get("seconds", float("nan")))
        of = evaluation.provenance(samples, threads=torch.get_num_threads(), batch=self.batch)
        records.append(MetricRecord("seconds per picture", seconds, TIMING * seconds, len(samples), of))
        sharp = self.sharp.measure(samples)
        if sharp is not None:
            records.append(sharp.record)
        kinds: dict[str, Any] = {}
        if self.kinds is not None:
            count = count_kinds(self.kinds, evaluation, samples)
            records += count.records
            kinds = {"seen": list(count.seen), "missing": count.missing}
        return Entry(
            name=way.name,
            run=way.run,
            kind=way.kind,
            sampler=way.sampler,
            num_steps=way.num_steps,
            guidance_scale=way.guidance_scale,
            network_calls=float(origin.get("network_calls", 1.0)),
            seconds=seconds,
            records=records,
            spectrum={} if sharp is None else {"frequencies": sharp.frequencies, "ratios": sharp.ratios},
            kinds=kinds,
        )

    def seconds(self, ways: Sequence[Way]) -> float:
        """What judging samples drawn in these ways takes, from a piece of it; drawing them is not in it."""
        pool = self.evaluation.reference.pool
        for space in self.evaluation.spaces:
            self.evaluation.features(space, pool)
        real, found = pool.take(range(self.num)), 0.0
        for quick, evaluation in ((False, self.evaluation), (True, self.quick())):
            count = sum(way.quick is quick for way in ways)
            if count == 0:
                continue
            splits = replace(evaluation.splits, count=2, turns=1)
            few = replace(evaluation, splits=splits, _known=evaluation._known)
            began = time.perf_counter()
            list(few.measure(real))
            # What is prepared for all comparisons is counted with each of them here, so this is an upper end.
            scale = evaluation.splits.comparisons / splits.comparisons
            found += count * scale * (time.perf_counter() - began)
        return found


def chosen_rows(pictures: PictureSet, most: int = SHOWN) -> list[int]:
    """The first picture of each class (of up to `most`), or the first ones where there are no classes."""
    if pictures.labels is None or not pictures.spec.classes:
        return list(range(min(most, len(pictures))))
    labels = pictures.labels.tolist()
    return [labels.index(label) for label in sorted(set(labels))][:most]


def draw_strip(pictures: PictureSet, path: Path) -> None:
    """Some of the pictures side by side, nothing picked, as a PNG of their own pixels."""
    from kakusan.report.grids import tile
    from kakusan.report.png import save_png

    images = pictures.spec.to_pil(pictures.x(torch.tensor(chosen_rows(pictures))))
    save_png(tile(images, columns=len(images)), path)
