"""Reflow: pairs of noise and sample from a model's own flow (Liu et al. 2023, arXiv 2209.03003, algorithm 1).

A flow trained on them carries the same distribution, at no higher transport cost, and is straighter (section 3).
Only the samples are stored: the noise is made again from their seeds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.couplings import Reflowed
from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.denoiser import BaseDenoiser
from kakusan.files import unfinished, whole_file, write_text
from kakusan.model_folder import CorruptModel
from kakusan.samplers import Sampler, sample
from kakusan.specs import from_spec, to_spec

FACTS, FORMAT = "pairs.json", 1
PART = 256
"""Pairs in one file: what is drawn again when drawing is interrupted."""


def coupling_of_start(denoiser: BaseDenoiser, grid: Tensor, *, seed: int) -> Reflowed:
    """The coupling of samples drawn by this denoiser on this grid, sample i from `seed + i`."""
    t = grid[:1].to(torch.float64)
    alpha, sigma = float(denoiser.schedule.alpha(t)), float(denoiser.schedule.sigma(t))
    return Reflowed(seed, alpha, sigma, (alpha**2 * denoiser.sigma_data**2 + sigma**2) ** 0.5)


def check_sampler(sampler: Sampler) -> None:
    """Refuse a sampler whose samples do not belong to their noise.

    Raises:
        ValueError: it adds fresh noise.
    """
    if sampler.stochastic:
        raise ValueError(
            f"{type(sampler).__name__} adds fresh noise, so its samples are no function of the noise they start from; "
            "reflow needs a deterministic sampler (Heun without churn, DDIM with eta = 0, DPMSolverPP)"
        )


def draw_pairs(
    denoiser: BaseDenoiser,
    sampler: Sampler,
    grid: Tensor,
    shape: Sequence[int],
    cond: Condition | None = None,
    *,
    seed: int = 0,
    batch: int = 1024,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Reflowed]:
    """Samples x0 (N, C, *spatial), and the coupling that gives each its noise again.

    Args:
        denoiser: the model to straighten.
        sampler: deterministic.
        grid: falling times, as in `samplers.sample`.
        shape: (N, C, *spatial).
        cond: for N samples, or for one and shared.
        seed: of sample 0.
        batch: samples drawn at once.

    Raises:
        ValueError: a stochastic sampler, or a grid that rises.
    """
    check_sampler(sampler)
    if len(grid) > 1 and grid[0] < grid[-1]:
        raise ValueError("pairs are drawn on a falling grid, from noise to data")
    if cond is not None:
        cond = cond.expand(shape[0])
    found = []
    for begin in range(0, shape[0], batch):
        rows = slice(begin, min(begin + batch, shape[0]))
        part = None if cond is None else cond.map(lambda value, rows=rows: value[rows])  # type: ignore[misc]
        size = (rows.stop - rows.start, *shape[1:])
        found.append(sample(denoiser, sampler, grid, size, part, seeds=seed + begin, dtype=dtype, device=device))
    return torch.cat(found), coupling_of_start(denoiser, grid, seed=seed)


class Pairs(ArrayPictures):
    """Samples of a model as a data set, with the noise that each was drawn from.

    They are held as pictures are, so a sample is rounded to the levels of the data and clamped to their range.

    Args:
        coupling: sample i has the seed `coupling.seed + i`.
    """

    def __init__(
        self, spec: DataSpec, stored: Tensor | np.ndarray, *, coupling: Reflowed, labels: Tensor | None = None
    ) -> None:
        super().__init__(spec, stored, labels=labels)
        self.coupling = coupling
        self.fingerprint = hashlib.sha256(f"{self.fingerprint} {to_spec(coupling)}".encode()).hexdigest()

    def split(self, held_out: float) -> tuple[Pairs, Pairs]:
        """(pairs to train on, pairs to measure on): the last of them are held out, each with its own noise."""
        if not 0.0 <= held_out < 1.0:
            raise ValueError(f"the held-out fraction is at least 0 and below 1, got {held_out}")
        kept = len(self) - math.floor(held_out * len(self))
        parts = []
        for rows in (slice(0, kept), slice(kept, len(self))):
            labels = None if self.labels is None else self.labels[rows]
            coupling = replace(self.coupling, seed=self.coupling.seed + rows.start)
            parts.append(Pairs(self.spec, self._stored[rows], coupling=coupling, labels=labels))
        return parts[0], parts[1]


@dataclass(frozen=True)
class PairFacts:
    """Everything that decides a set of pairs.

    Args:
        model: hash of the model that draws them.
        request: sampler, grid, steps, guidance; plain JSON values.
        coupling: seed and level of the start.
        data: what the samples are, as the model was trained on; mirroring is off.
        count: number of pairs.
    """

    model: str
    request: dict[str, Any]
    coupling: Reflowed
    data: DataSpec
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"at least one pair is needed, got {self.count}")
        # A mirrored sample no longer belongs to its noise.
        object.__setattr__(self, "data", replace(self.data, flip=False, augment=0.0))

    def spec(self) -> dict[str, Any]:
        """JSON form."""
        return {"format": FORMAT, **{name: to_spec(getattr(self, name)) for name in self.__dataclass_fields__}}

    @classmethod
    def of(cls, spec: dict[str, Any]) -> PairFacts:
        """Inverse of `spec`."""
        if spec["format"] != FORMAT:
            raise ValueError(f"pairs have format {spec['format']!r}; this version of kakusan reads {FORMAT}: update it")
        coupling, data = from_spec(spec["coupling"], Reflowed), from_spec(spec["data"], DataSpec)
        return cls(str(spec["model"]), dict(spec["request"]), coupling, data, int(spec["count"]))


class PairFolder:
    """Pairs on disk: `pairs.json` and `part-N.safetensors`, each written whole; what is missing can be drawn later."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether pairs were begun here."""
        return (self.path / FACTS).is_file()

    def facts(self) -> PairFacts:
        """What the pairs are.

        Raises:
            CorruptModel: `pairs.json` is missing, damaged or of another version.
        """
        try:
            return PairFacts.of(json.loads((self.path / FACTS).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise CorruptModel(f"{self.path} holds no pairs of reflow: it has no {FACTS}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptModel(f"{self.path / FACTS} is damaged: {error}") from None

    def begin(self, facts: PairFacts) -> None:
        """Start a set of pairs, or go on with the same one.

        Raises:
            ValueError: other pairs are here; the message names what differs.
        """
        if self.exists():
            old, new = self.facts().spec(), facts.spec()
            different = [f"{key} was {old.get(key)!r}, now {new[key]!r}" for key in new if old.get(key) != new[key]]
            if different:
                raise ValueError(
                    f"{self.path} holds pairs drawn otherwise ({'; '.join(different)}); give the same settings to go "
                    "on, or choose another --out"
                )
            for leftover in unfinished(self.path):
                leftover.unlink(missing_ok=True)
            return
        write_text(self.path / FACTS, json.dumps(facts.spec(), indent=1, ensure_ascii=False) + "\n")

    def _part(self, number: int) -> Path:
        return self.path / f"part-{number:05d}.safetensors"

    def missing(self) -> list[range]:
        """Places of the pairs that are still to be drawn, one range for each file."""
        count = self.facts().count
        whole = [range(begin, min(begin + PART, count)) for begin in range(0, count, PART)]
        return [places for places in whole if not self._part(places.start // PART).is_file()]

    def write(self, places: range, stored: Tensor, labels: Tensor | None = None) -> None:
        """Store the samples at `places`, one of the ranges of `missing`: stored pictures (n, C, *size), labels (n,)."""
        from safetensors.torch import save_file

        assert places.start % PART == 0
        assert len(places) == len(stored) <= PART
        tensors = {"x0": stored.contiguous()} | ({} if labels is None else {"labels": labels.to(torch.int64)})
        target = self._part(places.start // PART)
        with whole_file(target) as temporary:
            save_file(tensors, str(temporary))

    def open(self) -> Pairs:
        """All pairs, in order.

        Raises:
            ValueError: some are still to be drawn.
            CorruptModel: a file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        facts, missing = self.facts(), self.missing()
        if missing:
            left = sum(map(len, missing))
            raise ValueError(
                f"{left} of {facts.count} pairs in {self.path} are still to be drawn; the same `kakusan reflow` goes on"
            )
        samples, labels = [], []
        for number in range(-(-facts.count // PART)):
            path = self._part(number)
            try:
                tensors = load_file(str(path))
                samples.append(tensors["x0"])
                labels.append(tensors.get("labels"))
                facts.data.check(samples[-1])
            except (SafetensorError, KeyError, ValueError) as error:
                raise CorruptModel(f"{path} is damaged: {error}; delete it, and it is drawn again") from None
        found = [part for part in labels if part is not None]
        if len(found) not in (0, len(labels)) or sum(map(len, samples)) != facts.count:
            raise CorruptModel(f"the files in {self.path} do not fit together; delete them, and they are drawn again")
        return Pairs(
            facts.data, torch.cat(samples), coupling=facts.coupling, labels=torch.cat(found) if found else None
        )
