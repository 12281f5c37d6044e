"""`kakusan eval`: samples of a model, or ready pictures, set beside real ones: `eval.json` and `report.html`."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kakusan import __version__, runtime
from kakusan.choices import choose
from kakusan.metrics.distances import DISTANCES
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.reference import Reference
from kakusan.metrics.results import EvaluationResult
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces import default_spaces, open_judge, open_spaces
from kakusan.tasks.eval_pace import seconds_to_learn
from kakusan.tasks.eval_parts import PARTS, Draft
from kakusan.tasks.eval_samples import draw_samples, pace_of_sampling
from kakusan.tasks.eval_subjects import Subject, open_subject
from kakusan.train.estimate import duration

__all__ = ["EvaluationResult", "EvaluationSettings", "draw_samples", "evaluate_run"]

RESULT, REPORT, SPACES = "eval.json", "report.html", "spaces"


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How to evaluate.

    Args:
        num: samples.
        seed: of the samples.
        spaces: names of feature spaces; those that suit the data when empty.
        distances: names; all when empty.
        num_steps: of the sampler.
        sampler: its name; DPM-Solver++ when not given.
        guidance_scale: 1 when not given.
        weights: an EMA profile, or raw.
        batch: samples at once.
        device: auto, cpu, cuda.
    """

    num: int = 256
    seed: int = 0
    spaces: Sequence[str] = ()
    distances: Sequence[str] = ()
    num_steps: int = 20
    sampler: str | None = None
    guidance_scale: float | None = None
    weights: str | None = None
    batch: int = 64
    device: str = "auto"

    def sampling(self) -> dict[str, Any]:
        """What a sampler is told."""
        return {"num_steps": self.num_steps, "sampler": self.sampler, "guidance_scale": self.guidance_scale}


def evaluate_run(
    run: Path,
    *,
    data: str | None = None,
    out: Path | None = None,
    say: Callable[[str], None] = print,
    settings: EvaluationSettings | None = None,
) -> EvaluationResult:
    """Evaluate a run, a rival or a folder of pictures, and write `eval.json` and `report.html`.

    Stopped by Ctrl-C or an error, what had been measured is written all the same, marked as not complete.

    Args:
        run: a run, checkpoint, model folder or rival, or a folder of pictures.
        data: the real pictures; those of the run when not given.
        out: where the results go; the folder `eval` of the run when not given.
        say: takes lines for people.
        settings: how to evaluate; the usual way when not given.

    Raises:
        ValueError: nothing that can be evaluated, unknown names, or too few real pictures.
    """
    given = settings or EvaluationSettings()
    for name in given.distances:
        choose(DISTANCES, name, "distance")
    began, where = time.perf_counter(), runtime.pick_device(given.device)
    facts = runtime.tune(device=where)
    subject = open_subject(run, data=data, weights=given.weights, device=where, say=say)
    reference = subject.reference(given.num)
    say(f"{len(reference.pool)} real pictures to compare with, {len(reference.learning)} for the judges")
    folder = out or subject.out
    draft = _draft(subject, reference, given, folder, say)
    complete = False
    try:
        for part in PARTS:
            say(f"measuring: {part.name}")
            try:
                part.run(draft)
            except ValueError as error:
                draft.notes.append(f"{part.name} left out: {error}")
                say(draft.notes[-1])
        complete = True
    finally:
        circumstances = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": time.perf_counter() - began,
            "seconds_per_sample": draft.samples.origin.get("seconds"),
            "batch": given.batch,
            "device": where.type,
            "threads": facts.threads,
            "torch": torch.__version__,
            "kakusan": __version__,
            "system": platform.platform(),
        }
        result = _result(draft, complete, {k: v for k, v in circumstances.items() if v is not None})
        _write(result, draft, folder, say)
    return result


def _draft(
    subject: Subject, reference: Reference, given: EvaluationSettings, folder: Path, say: Callable[[str], None]
) -> Draft:
    num = min(given.num, reference.most())
    if num < given.num:
        say(f"{num} samples instead of {given.num}: there must be twice as many real pictures")
    names = tuple(given.spaces) or default_spaces(reference)
    if subject.model is not None:
        seconds = pace_of_sampling(subject.model, reference, batch=given.batch, **given.sampling()) * num
        learning = seconds_to_learn(names, reference, folder / SPACES)
        kept = f"about {duration(learning)} to train feature spaces" if learning else "feature spaces are kept"
        say(f"{num} samples: about {duration(seconds)}; {kept}; measuring comes on top")
    spaces = open_spaces(names, reference, folder=folder / SPACES, say=say)
    judge = open_judge(reference, folder=folder / SPACES, say=say)
    distances = [DISTANCES[name]() for name in given.distances or DISTANCES]
    evaluation = Evaluation(reference, spaces, distances)
    samples = _samples(subject, reference, num, given, say)
    return Draft(subject, evaluation, samples, judge, given.seed, notes=list(subject.notes))


def _samples(
    subject: Subject, reference: Reference, num: int, given: EvaluationSettings, say: Callable[[str], None]
) -> PictureSet:
    if subject.model is None:
        return subject.ready(reference, num, given.seed)
    return draw_samples(
        subject.model,
        reference,
        num=num,
        seed=given.seed,
        batch=given.batch,
        say=say,
        **given.sampling(),
    )


def _result(draft: Draft, complete: bool, circumstances: dict[str, Any]) -> EvaluationResult:
    return EvaluationResult(
        draft.subject.name,
        tuple(draft.records),
        faults=tuple(draft.faults),
        memorisation=draft.memorisation,
        classes=tuple(draft.classes),
        curves=draft.curves,
        cost=draft.cost,
        notes=tuple(draft.notes),
        circumstances=circumstances,
        complete=complete,
    )


def _write(result: EvaluationResult, draft: Draft, folder: Path, say: Callable[[str], None]) -> None:
    from kakusan.report.evaluation import EvaluationPictures, evaluation_page

    result.write(folder / RESULT)
    pictures = EvaluationPictures(draft.samples, draft.evaluation.reference.pool, draft.suspicious)
    evaluation_page(result, pictures).write(folder / REPORT)
    say(f"wrote {folder / RESULT} and {folder / REPORT}")
