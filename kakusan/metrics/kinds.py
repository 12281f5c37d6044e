"""Counting the kinds of pictures that a model draws, where what pictures are made of is known: is a mode missing?

A judge reads the factors off a picture (for the embedded flowers: species, hue of the petals, background; else the
class). A kind is one combination of readings. Real pictures are read by the same judge, so that its mistakes are in the
null as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from kakusan.data import flowers
from kakusan.files import whole_file, write_text
from kakusan.metrics.classifier import Classifier
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.record import MetricRecord, digest
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces.base import features, hash_of_network

Say = Callable[[str], None]

# A key of the flowers' dice that is no split: the judge learns from pictures that no model has seen.
JUDGED = 0x6B616B7573616E03
DRAWN = 4000
VERSION = 2


@dataclass(frozen=True)
class Known:
    """Pictures with the factors they were made from.

    Args:
        pictures: what the judge learns from.
        factors: (N, F) int64, the value of each factor in each picture.
        names: of the values of each factor, by the factor's name.
    """

    pictures: PictureSet
    factors: Tensor
    names: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Kinds:
    """A judge of factors: a `Space` whose features are the readings.

    Args:
        judge: scores of all values of all factors, one factor after the other.
        names: of the values of each factor, by the factor's name.
        accuracy: of each reading on pictures that the judge has not learnt from.
    """

    judge: Classifier
    names: Mapping[str, tuple[str, ...]]
    accuracy: Mapping[str, float]

    name = "kinds"
    resizer = "none"

    @cached_property
    def hash(self) -> str:
        """Identity of the judge."""
        return hash_of_network(self.judge, "kinds", VERSION, sorted(self.names.items()))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The likeliest value of each factor, (B, F)."""
        parts = self.judge(x).split([len(values) for values in self.names.values()], dim=1)
        return torch.stack([part.argmax(1) for part in parts], 1)

    def number(self, readings: Tensor) -> Tensor:
        """One number for each combination of readings, (N,)."""
        found = torch.zeros(len(readings), dtype=torch.int64)
        for column, values in enumerate(self.names.values()):
            found = found * len(values) + readings[:, column]
        return found


@dataclass(frozen=True)
class KindCount:
    """What kinds samples are of.

    Args:
        records: "kinds covered" and "kinds out of balance", and "condition accuracy" where classes were asked for.
        seen: how many kinds the samples show, and how many as many real pictures show.
        missing: values of a factor that real pictures show and samples hardly (less than a tenth as often).
    """

    records: list[MetricRecord]
    seen: tuple[int, int]
    missing: list[str]


def covered(kinds: Tensor, a: Tensor, b: Tensor) -> float:
    """Share of the pictures in rows b whose kind is among those in rows a."""
    return float(torch.isin(kinds[b], kinds[a]).double().mean())


def imbalance(kinds: Tensor, a: Tensor, b: Tensor) -> float:
    """Total variation distance between how often the kinds are in rows a and in rows b: 0 the same, 1 nothing alike."""
    length = int(kinds.max()) + 1
    first, second = (torch.bincount(kinds[rows], minlength=length).double() / len(rows) for rows in (a, b))
    return 0.5 * float((first - second).abs().sum())


def count_kinds(kinds: Kinds, evaluation: Evaluation, samples: PictureSet) -> KindCount:
    """Count the kinds of samples beside those of real pictures.

    Raises:
        ValueError: more samples than half of the pool.
    """
    pool, n = evaluation.reference.pool, len(samples)
    ours, real = (evaluation.features(kinds, pictures).long() for pictures in (samples, pool))
    numbers = kinds.number(torch.cat([ours, real]))
    of = evaluation.provenance(samples, kinds, factors=list(kinds.names), **evaluation.splits.settings())
    records = []
    for name, compare, better in (("kinds covered", covered, "high"), ("kinds out of balance", imbalance, "low")):

        def measure(a: Tensor, b: Tensor, compare: Callable[[Tensor, Tensor, Tensor], float] = compare) -> float:
            return compare(numbers, a, b)

        found = evaluation.splits.measure(measure, n=n, pool=len(pool), labels=samples.labels, pool_labels=pool.labels)
        records.append(MetricRecord(name, found.value, found.stderr, n, of, "", found.null, found.null_stderr, better))
    classes = samples.spec.classes
    if samples.labels is not None and pool.labels is not None and tuple(classes) in kinds.names.values():
        column = list(kinds.names.values()).index(tuple(classes))
        right = (ours[:, column] == samples.labels).double()
        null = float((real[:, column] == pool.labels).double().mean())
        error, spread = (_share_error(float(share), n) for share in (right.mean(), null))
        records.append(MetricRecord("condition accuracy", float(right.mean()), error, n, of, "", null, spread, "high"))
    shown = numbers[n:][torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))[:n]]
    seen = len(numbers[:n].unique()), len(shown.unique())
    return KindCount(records, seen, _missing(kinds, ours, real))


def _share_error(share: float, n: int) -> float:
    """Standard error of a share of n, never nothing: one more hit and one more miss are always thought of."""
    share = (share * n + 1.0) / (n + 2.0)
    return (share * (1.0 - share) / n) ** 0.5


def _missing(kinds: Kinds, ours: Tensor, real: Tensor) -> list[str]:
    found = []
    for column, (factor, values) in enumerate(kinds.names.items()):
        shares = [torch.bincount(r[:, column], minlength=len(values)).double() / len(r) for r in (ours, real)]
        # Rare in real pictures, a value may be missing by chance.
        rare = 5.0 / len(ours)
        found += [f"{factor} {values[i]}" for i in range(len(values)) if shares[1][i] > rare > 10 * shares[0][i]]
    return found


def learn_kinds(known: Known, *, steps: int = 300, batch: int = 32, seed: int = 0) -> Kinds:
    """Train a judge of factors; an eighth of the pictures is kept to measure how often it is right.

    Deterministic from `seed` on one machine.
    """
    names = dict(known.names)
    sizes = [len(values) for values in names.values()]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(known.pictures), generator=generator)
    kept = max(1, len(order) // 8)
    new, learnt = order[:kept], order[kept:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Classifier(channels=known.pictures.spec.channels, classes=sum(sizes))
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.15)
    for _ in range(steps):
        rows = learnt[torch.randint(len(learnt), (batch,), generator=generator)]
        x = known.pictures.x(rows)
        # A sample is judged by what it shows and not by its finest grain.
        x = x + 0.05 * torch.randn(x.shape, generator=generator)
        parts = judge(x).split(sizes, dim=1)
        losses = [F.cross_entropy(part, known.factors[rows, i]) for i, part in enumerate(parts)]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimizer.step()
        rate.step()
    kinds = Kinds(judge.eval().requires_grad_(False), names, {})
    readings = features(kinds, known.pictures.take(new)).long()
    right = (readings == known.factors[new]).double().mean(0).tolist()
    return Kinds(kinds.judge, names, dict(zip(names, right, strict=True)))


def flower_factors(reference: Reference) -> Known:
    """Fresh flowers with their species, hue of the petals and background."""
    spec = reference.pool.spec
    factors = [flowers.sample_factors(JUDGED, index) for index in range(DRAWN)]
    drawn = flowers.draw_batch(factors, (spec.size[0], spec.size[-1]))
    stored = torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()
    read = [(f.species, f.petal_hue, f.background) for f in factors]
    columns = list(zip(*read, strict=True))
    names = {
        "species": flowers.SPECIES,
        "petals": tuple(sorted(set(columns[1]))),
        "background": tuple(sorted(set(columns[2]))),
    }
    values = [[names[factor].index(v) for v in column] for factor, column in zip(names, columns, strict=True)]
    return Known(PictureSet(stored, spec), torch.tensor(values).T.contiguous(), names)


def class_factors(reference: Reference) -> Known:
    """The judges' own real pictures with their class.

    Raises:
        ValueError: pictures without at least two classes.
    """
    learning = reference.learning
    if learning.labels is None or len(learning.spec.classes) < 2:
        raise ValueError("kinds are counted by classes or known factors, and these pictures have neither")
    return Known(learning, learning.labels[:, None], {"class": tuple(learning.spec.classes)})


FACTORS: Mapping[str, Callable[[Reference], Known]] = {"flowers": flower_factors}
"""Embedded sets whose factors are known."""


def open_kinds(
    source: str, reference: Reference, *, folder: Path | None = None, say: Say | None = None
) -> Kinds | None:
    """The judge for a data set, learnt once and kept in `folder`; None where pictures have no classes either."""
    name = source.partition(":")[0]
    if name not in FACTORS and (reference.learning.labels is None or len(reference.learning.spec.classes) < 2):
        return None
    make = FACTORS.get(name, class_factors)
    learnt_from = (reference.pool.spec.shape, JUDGED, DRAWN) if name in FACTORS else reference.learning_hash
    key = digest(["kinds", VERSION, make.__name__, str(learnt_from), torch.__version__])
    place = None if folder is None else folder / f"kinds-{key}.safetensors"
    if place is not None and place.is_file() and place.with_suffix(".json").is_file():
        return _read(place, reference)
    if say is not None:
        say("learning to read the kinds of pictures")
    kinds = learn_kinds(make(reference))
    if place is not None:
        with whole_file(place) as temporary:
            save_file({k: v.contiguous() for k, v in kinds.judge.state_dict().items()}, temporary)
        facts = {"names": {k: list(v) for k, v in kinds.names.items()}, "accuracy": dict(kinds.accuracy)}
        # Last: its being there says that both are whole.
        write_text(place.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    return kinds


def _read(place: Path, reference: Reference) -> Kinds:
    facts = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
    names: dict[str, tuple[str, ...]] = {k: tuple(v) for k, v in facts["names"].items()}
    count = sum(map(len, names.values()))
    judge = Classifier(channels=reference.pool.spec.channels, classes=count)
    judge.load_state_dict(load_file(place))
    return Kinds(judge.eval().requires_grad_(False), names, facts["accuracy"])
