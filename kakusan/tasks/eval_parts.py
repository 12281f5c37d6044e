"""The parts of an evaluation beside the distances. Each adds what it found to a draft, or says why it could not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kakusan.likelihood import Bound, Categorical
from kakusan.metrics.classifier import Classifier
from kakusan.metrics.colour import colour_records
from kakusan.metrics.conditions import condition_count, condition_records
from kakusan.metrics.diversity import diversity, diversity_records
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.faults import examine
from kakusan.metrics.memorisation import memorisation
from kakusan.metrics.modes import JudgedClasses
from kakusan.metrics.record import MetricRecord, Provenance
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces.base import Space
from kakusan.metrics.spectrum import spectrum_curve, spectrum_records
from kakusan.metrics.two_sample import TwoSampleNetwork, classifier_two_sample
from kakusan.nn.count import flops, parameters
from kakusan.pipeline import Pipeline
from kakusan.rivals.pipeline import RivalPipeline
from kakusan.tasks.eval_subjects import Subject
from kakusan.tasks.generalisation import gap_between
from kakusan.train.reopen import conditioning

LIKELIHOOD = 64
"""Held-out pictures whose likelihood is stated, so that it takes a bounded time."""
DRAWS = 8
SHOWN = 8
"""Suspicious samples that a page shows."""
_JUDGE = TwoSampleNetwork(steps=150, batch=256)


@dataclass
class Draft:
    """What has been found so far.

    Args:
        subject: what is measured.
        evaluation: real pictures, spaces and distances.
        samples: what is set beside them.
        judge: names the class of a picture; None without classes.
        seed: of whatever is drawn beside the samples.
    """

    subject: Subject
    evaluation: Evaluation
    samples: PictureSet
    judge: Classifier | None
    seed: int
    records: list[MetricRecord] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    memorisation: dict[str, Any] = field(default_factory=dict)
    classes: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    suspicious: tuple[PictureSet, PictureSet] | None = None

    @property
    def space(self) -> Space | None:
        """Where single pictures are compared: one that has not learnt the classes, if there is one."""
        spaces = self.evaluation.spaces
        return next((s for s in spaces if s.name == "self-supervised"), spaces[-1] if spaces else None)


@dataclass(frozen=True)
class Part:
    """One part.

    Args:
        name: for lines of progress.
        run: adds to a draft; a ValueError becomes a note.
    """

    name: str
    run: Callable[[Draft], None]


def distances(draft: Draft) -> None:
    """Every distance in every space."""
    for record in draft.evaluation.measure(draft.samples):
        draft.records.append(record)


def spectrum(draft: Draft) -> None:
    """Power by spatial frequency."""
    draft.records += spectrum_records(draft.evaluation, draft.samples)
    curve = spectrum_curve(draft.evaluation, draft.samples)
    if curve is not None:
        names = ("frequencies", "samples", "real", "spread")
        draft.curves["spectrum"] = {name: list(getattr(curve, name)) for name in names}


def colour(draft: Draft) -> None:
    """Means, contrasts and correlations of the channels."""
    draft.records += colour_records(draft.evaluation, draft.samples)


def classes(draft: Draft) -> None:
    """Condition accuracy and diversity, class by class."""
    evaluation, samples, space = draft.evaluation, draft.samples, draft.space
    draft.records += condition_records(evaluation, samples, judge=draft.judge)
    if space is None:
        return
    draft.records += diversity_records(evaluation, samples, space)
    real = evaluation.reference.pool
    judged = None if draft.judge is None else JudgedClasses(draft.judge, evaluation)
    count = None if judged is None else condition_count(judged, samples, real)
    for row in diversity(evaluation, samples, space):
        if row.label is None:
            continue
        found: dict[str, Any] = {"class": real.spec.classes[row.label], "samples": row.samples.n}
        if count is not None and row.label in count.by_label:
            right, asked, real_right, real_asked = count.by_label[row.label]
            found |= {"judged right": right / asked, "real pictures judged right": real_right / real_asked}
        draft.classes.append({**found, "diversity, 1 as real": row.ratio})


def faults(draft: Draft) -> None:
    """What is wrong, by name."""
    found = examine(draft.evaluation, draft.samples, judge=draft.judge)
    draft.faults += [
        {"name": f.name, "verdict": f.verdict, "chance": f.p, "evidence": [r.record() for r in f.evidence]}
        for f in found.faults
    ]
    draft.notes += found.notes


def copies(draft: Draft) -> None:
    """Nearest training pictures of the samples beside those of unseen pictures."""
    report = memorisation(draft.evaluation, draft.samples, draft.space)
    draft.records += report.records
    draft.memorisation |= {
        "verdict": f"{report.text()} A model that copies nothing shows as much with a chance of {report.p:.2g}.",
        "space": report.space,
        "chance": report.p,
        "unseen": report.unseen,
        "limit": report.limit,
        "suspects": [dataclasses.asdict(suspect) for suspect in report.suspects],
        "samples": list(report.first),
        "held_out": list(report.unseen_first),
    }
    if report.suspects:
        shown = report.suspects[:SHOWN]
        training = draft.evaluation.reference.training
        draft.suspicious = (
            draft.samples.take([suspect.sample for suspect in shown]),
            training.take([suspect.neighbour for suspect in shown]),
        )


def memory(draft: Draft) -> None:
    """Is the network better at pictures of its training than at new ones, level by level?"""
    model = draft.subject.model
    if not isinstance(model, Pipeline):
        return
    report = gap_between(model, draft.subject.training, draft.subject.held_out)
    if report is None:
        draft.notes.append(
            "nothing was held out, so it was not looked at whether the network knows its training pictures"
        )
        return
    gaps, errors = [level.gap for level in report.levels], [level.gap_stderr for level in report.levels]
    levels = [level.log_snr for level in report.levels]
    draft.curves["levels"] = {"log_snr": levels, "gap": gaps, "stderr": errors, "verdict": report.text()}
    # Of the picture that is measured, 0 is what a network without memory has.
    of = draft.evaluation.provenance(draft.samples, pictures=list(report.pictures), levels=levels)
    name, n = "held-out less training error, as a share", min(report.pictures)
    draft.records.append(
        MetricRecord(name, report.excess, report.excess_stderr, n, of, "", 0.0, report.excess_stderr, "null")
    )


def two_sample(draft: Draft) -> None:
    """Can a network tell samples from real pictures?"""
    space = draft.space
    if space is None:
        return
    n = len(draft.samples)
    mine = draft.evaluation.features(space, draft.samples)
    pool = draft.evaluation.features(space, draft.evaluation.reference.pool)
    chosen = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))[:n]
    found = classifier_two_sample(mine.float(), pool[chosen].float(), network=_JUDGE)
    of = draft.evaluation.provenance(draft.samples, space, **found.settings)
    name, spread = "network two-sample", (0.25 / n) ** 0.5
    draft.records.append(MetricRecord(name, found.accuracy, found.stderr, n, of, space.name, 0.5, spread, "null"))


@torch.no_grad()
def likelihood(draft: Draft) -> None:
    """Bits per dimension of a few held-out pictures, by the bound or whatever the model has."""
    model, held_out = draft.subject.model, draft.subject.held_out
    count = min(LIKELIHOOD, len(held_out))
    # Bits of latents are not those of pictures.
    if model is None or count < 2 or model.data.networks():
        return
    rows = [int(row) for row in torch.linspace(0, len(held_out) - 1, count).round()]
    if isinstance(model, Pipeline):
        bits, settings = _bound(model, draft, rows)
    else:
        found = _of_rival(model, draft, rows)
        if found is None:
            return
        bits, settings = found
    of = Provenance(model=model.model_hash, weights=model.weights, reference=held_out.fingerprint, settings=settings)
    error = float(bits.std() / count**0.5)
    draft.records.append(MetricRecord("bits per dimension", float(bits.mean()), error, count, of, better="low"))


def _bound(model: Pipeline, draft: Draft, rows: list[int]) -> tuple[torch.Tensor, dict[str, Any]]:
    method = Bound(Categorical.for_data(model.data), DRAWS)
    told, conditions = conditioning(model, draft.subject.held_out)
    terms = []
    for start in range(0, len(rows), 32):
        some = rows[start : start + 32]
        x0 = model.data.to_model(draft.subject.held_out.read(some)).to(model.device)
        found = method.terms(model.denoiser, x0, told(some), torch.tensor(some))
        terms.append(torch.stack([value.double().cpu() for value in found.values()]).sum(0))
    dims = model.data.channels * torch.tensor(model.data.size).prod()
    bits = torch.cat(terms) / (float(dims) * torch.log(torch.tensor(2.0, dtype=torch.float64)))
    return bits, {"method": method.record(), "kind": "bound", "conditions": conditions}


def _of_rival(model: RivalPipeline, draft: Draft, rows: list[int]) -> tuple[torch.Tensor, dict[str, Any]] | None:
    held_out = draft.subject.held_out
    same = bool(model.classes) and model.classes == held_out.spec.classes and held_out.labels is not None
    labels = held_out.labels[rows] if same and held_out.labels is not None else None
    found = model.log_likelihood(held_out.read(rows), labels, seeds=rows)
    if found is None:
        return None
    return found.double(), {"kind": model.likelihood_kind, "conditions": "labels" if same else "none"}


def cost(draft: Draft) -> None:
    """What a sample takes: network calls, parameters, operations."""
    model, calls = draft.subject.model, draft.samples.origin.get("network_calls")
    if model is None or calls is None:
        return
    draft.cost["network_calls"] = float(calls)
    if isinstance(model, Pipeline):
        backbone = getattr(model.denoiser, "backbone", None)
        draft.cost["parameters"] = parameters(model.model)
        if backbone is not None:
            draft.cost["flops"] = flops(backbone, model.data.shape) * float(calls)
        return
    draft.cost["parameters"] = parameters(model.rival)
    if "flops_to_sample" in model.training:
        draft.cost["flops"] = float(model.training["flops_to_sample"])


PARTS: Sequence[Part] = (
    Part("distances", distances),
    Part("spectrum", spectrum),
    Part("colours", colour),
    Part("classes", classes),
    Part("faults", faults),
    Part("copies of training pictures", copies),
    Part("memory by noise level", memory),
    Part("two-sample test", two_sample),
    Part("likelihood", likelihood),
    Part("cost", cost),
)
