"""Diffusion and its rivals on the same data, in the same time, judged by the same measure."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kakusan import runtime
from kakusan.metrics.claims import findings, sentence
from kakusan.metrics.contestants import FORMAT, Contestant, kept, save
from kakusan.metrics.distance import Splits
from kakusan.metrics.record import digest
from kakusan.metrics.sets import PictureSet
from kakusan.pipeline import Pipeline
from kakusan.rivals.pipeline import RivalPipeline
from kakusan.tasks.contest_models import KINDS, ContestSettings, Kind
from kakusan.tasks.judging import Judging, Say, chosen_rows, draw_strip
from kakusan.tasks.stated import stated_bits
from kakusan.train.estimate import duration
from kakusan.train.sources import open_parts

__all__ = ["Contest", "ContestSettings"]

SPLITS = Splits(count=8, turns=2)
"""Fewer than an evaluation makes: trainings differ by more than what a split adds."""


@dataclass
class Contest:
    """A comparison in a folder: what is done stays done, and the same command goes on.

    Args:
        settings: what is compared.
        out: the folder.
        say: takes lines for people.
        kinds: how models are trained and opened.
    """

    settings: ContestSettings
    out: Path
    say: Say
    kinds: Mapping[str, Kind] = field(default_factory=lambda: KINDS)

    def run(self) -> list[Contestant]:
        """Train, judge and write; returns all contestants.

        Raises:
            ValueError: data that do not do, or a folder of another comparison.
            KeyboardInterrupt: asked to stop; what is done is written.
        """
        settings, say = self.settings, self.say
        for kind in settings.models:
            self.kinds[kind].check()
        runtime.tune(threads=settings.threads, device=runtime.pick_device(settings.device))
        self.training, self.held_out = open_parts(settings.parts, seed=0, say=say)
        self._claim_folder()
        say(f"{len(self.training)} pictures to train on, {len(self.held_out)} held out: {self.training.spec.shape}")
        began = time.perf_counter()
        self.judging = Judging.open(
            settings.data,
            self.training,
            self.held_out,
            self.out,
            num=settings.num,
            spaces=settings.spaces,
            splits=SPLITS,
            say=say,
        )
        say(f"judges ready after {duration(time.perf_counter() - began)}; " + self._estimate())
        draw_strip(self._real(), self.out / "measured" / "real.png")
        found: list[Contestant] = []
        try:
            for contestant in self._all():
                found.append(contestant)
                if len(found) % len(settings.models) == 0:
                    self._write(found)
        except KeyboardInterrupt:
            if found:
                self._write(found)
            say(f"stopped; {len(found)} of {self._count} models are trained and judged, the same command goes on")
            raise
        return found

    @property
    def _count(self) -> int:
        return len(self.settings.models) * self.settings.seeds

    def _all(self) -> Iterator[Contestant]:
        """Seed by seed, so that a comparison cut short has something of every kind."""
        for seed in range(self.settings.seeds):
            for kind in self.settings.models:
                yield self._contestant(kind, seed)

    def _contestant(self, kind: str, seed: int) -> Contestant:
        name = f"{kind}-{self.settings.seconds:g}s-seed-{seed}"
        place, folder = self.out / "measured" / f"{name}-training.json", self.out / "models" / name
        where = runtime.pick_device(self.settings.device)
        key = digest([name, self.training.fingerprint, torch.get_num_threads(), where.type])
        facts = kept(place, key)
        if facts is None:
            self.say(f"training {name}")
            facts = self.kinds[kind].train(self.settings, self.training, self.held_out, folder, seed)
            save(place, key, facts)
        trouble = str(facts.get("message", ""))
        if not facts["saved"]:
            self.say(f"{name} has diverged: {trouble}")
            return Contestant(kind, seed, training=facts, trouble=trouble)
        try:
            model = self.kinds[kind].open(folder, where)
            return self._judged(kind, seed, name, model, facts, trouble)
        except ValueError as error:
            # Samples that are not finite are a finding about the model, not an end of the comparison.
            self.say(f"{name} cannot be judged: {error}")
            return Contestant(kind, seed, training={**facts, "diverged": True}, trouble=trouble or str(error))

    def _judged(
        self, kind: str, seed: int, name: str, model: Pipeline | RivalPipeline, facts: dict[str, Any], trouble: str
    ) -> Contestant:
        ways = self.kinds[kind].ways(name, self.settings)
        entries = [self.judging.measure(model, way, self.say) for way in ways]
        bits, entry, likelihood = stated_bits(model, self.held_out), entries[-1], "none"
        if bits is not None:
            record, likelihood = bits
            entry = dataclasses.replace(entry, records=[*entry.records, record])
        rungs = [*entries[:-1], entry] if len(entries) > 1 else []
        return Contestant(kind, seed, entry, rungs, facts, likelihood, trouble)

    def _estimate(self) -> str:
        """What all will take, from a piece of everything."""
        settings, judging = self.settings, self.judging
        drawing = sum(judging.num * self.kinds[kind].drawing(settings, self.training) for kind in settings.models)
        ways = [way for kind in settings.models for way in self.kinds[kind].ways(kind, settings)]
        judged = settings.seeds * (drawing + judging.seconds(ways))
        trained = self._count * settings.seconds
        return (
            f"{len(settings.models)} models x {settings.seeds} seeds x {duration(settings.seconds)} of training: "
            f"{duration(trained)}; drawing and judging about {duration(judged)}; in all about "
            f"{duration(trained + judged)}, less what is done already"
        )

    def _real(self) -> PictureSet:
        pool = self.judging.evaluation.reference.pool
        return pool.take(chosen_rows(pool))

    def _claim_folder(self) -> None:
        """Refuse a folder of something else; trainings of another budget may lie beside each other."""
        place = self.out / "data.json"
        if place.is_file():
            if kept(place, self.training.fingerprint) is None:
                raise ValueError(f"{self.out} holds a comparison on other data; choose another --out")
        elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise ValueError(f"{self.out} is not empty and is not a comparison of kakusan's; choose another --out")
        save(place, self.training.fingerprint, {"data": self.settings.data, "shape": list(self.training.spec.shape)})

    def _write(self, found: Sequence[Contestant]) -> None:
        from kakusan.report.compare import contest_page

        decided = findings(found)
        classes = self.training.spec.classes
        facts = {
            "settings": dataclasses.asdict(self.settings),
            "threads": torch.get_num_threads(),
            "samples": self.judging.num,
            "torch": torch.__version__,
            "machine": dataclasses.asdict(runtime.tune(threads=torch.get_num_threads())),
            "judge": {} if self.judging.kinds is None else dict(self.judging.kinds.accuracy),
            "labels": [classes[i] for i in _labels(self._real())] if classes else [],
            "done": len(found),
            "of": self._count,
        }
        content = {
            "facts": facts,
            "sentence": sentence(decided),
            "claims": [finding.record() for finding in decided],
            "contestants": [contestant.record() for contestant in found],
        }
        save(self.out / "compare.json", f"contest {FORMAT}", content)
        contest_page(found, decided, facts, self.out / "measured").write(self.out / "compare.html")
        self.say(f"wrote {self.out / 'compare.json'} and {self.out / 'compare.html'}")


def _labels(pictures: PictureSet) -> list[int]:
    return [] if pictures.labels is None else [int(label) for label in pictures.labels]
