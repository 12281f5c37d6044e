"""What a list of pictures is as a data set: spec, names, labels, captions, fingerprint; and which cannot be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kakusan.data.metadata import Listing, some
from kakusan.data.modes import Plan
from kakusan.data.reading import UnreadablePicture
from kakusan.data.spec import DataSpec, measure_statistics

STATISTICS_SAMPLE = 2048
"""Pictures whose mean and std stand for a set that does not fit in memory."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Measured:
    """Range and statistics of decoded pictures: largest value, mean and std per channel in [-1, 1] units, notes."""

    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """Everything about the pictures but the pixels."""

    spec: DataSpec
    names: tuple[str, ...]
    labels: Tensor | None
    captions: tuple[str, ...] | None
    texts: tuple[tuple[str, ...], ...] | None
    fingerprint: str
    notes: tuple[str, ...]


def spread(count: int, most: int = STATISTICS_SAMPLE) -> np.ndarray:
    """Numbers of up to `most` pictures of `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def measure(stored: np.ndarray, plan: Plan, *, whole: bool) -> Measured:
    """Measure decoded pictures (N, C, H, W); `whole`: these are all, so that their largest value bounds the range."""
    high, notes = float(2**plan.bits - 1), []
    if plan.bits == 16 and whole:
        # Cameras and scanners often use 10, 12 or 14 of 16 bits; the model should see the range that is used.
        used = max(1, int(stored.max()).bit_length())
        if used < 16:
            high = float(2**used - 1)
            notes.append(f"16-bit values reach only {stored.max()}, so 0 to {high:g} is taken as the full range")
    mean, std = measure_statistics(stored, low=0.0, high=high)
    return Measured(high, mean, std, tuple(notes))


def describe(
    found: Listing, digests: Sequence[str], plan: Plan, measured: Measured, *, flip: bool, notes: Iterable[str] = ()
) -> Description:
    """The description of the pictures in `found`, whose contents have the hashes `digests`."""
    entries, said = found.entries, [*notes, *measured.notes]
    labelled = {e.label for e in entries}
    empty = [c for c in found.classes if c not in labelled]
    if empty:
        said.append(f"{len(empty)} classes have no pictures: {some(empty)}")
    spec = DataSpec(
        channels=plan.channels,
        size=plan.size,
        mean=measured.mean,
        std=measured.std,
        mode="I;16" if plan.mode == "L" and plan.bits == 16 else plan.mode,
        bits=plan.bits,
        high=measured.high,
        classes=found.classes,
        fit=plan.fit,
        flip=flip,
    )
    numbers = {name: i for i, name in enumerate(found.classes)}
    content = hashlib.sha256(repr(found.classes).encode())
    for entry, digest in zip(entries, digests, strict=True):
        content.update(repr((entry.shown, entry.label, entry.caption, digest)).encode("utf-8", "surrogatepass"))
        # Only where there are several, so that the fingerprint of other data stays what it always was.
        if len(entry.texts) > 1:
            content.update(repr(entry.texts[1:]).encode())
    return Description(
        spec,
        tuple(e.shown for e in entries),
        torch.tensor([numbers[e.label or ""] for e in entries]) if found.classes else None,
        tuple(e.caption or "" for e in entries) if any(e.texts for e in entries) else None,
        tuple(e.texts for e in entries) if any(e.texts for e in entries) else None,
        content.hexdigest(),
        tuple(said),
    )


def attempt(pool: Executor, work: Callable[[T], R], items: Sequence[T]) -> list[R | UnreadablePicture]:
    """Results in order; an unreadable picture is a result too."""

    def safe(item: T) -> R | UnreadablePicture:
        try:
            return work(item)
        except UnreadablePicture as error:
            return error

    return list(pool.map(safe, items))


def refuse_bad(bad: Sequence[UnreadablePicture], skip: bool, left: int, where: str) -> list[str]:
    """Notes about unreadable pictures that are left out.

    Raises:
        ValueError: there are some and they may not be left out, or nothing is left.
    """
    if not bad:
        return []
    if left == 0:
        raise ValueError(f"none of the {len(bad)} pictures of {where} can be read: {some(map(str, bad))}")
    if not skip:
        raise ValueError(
            f"{len(bad)} of {len(bad) + left} pictures of {where} cannot be read: {some(map(str, bad))}. Repair or "
            "remove them, or go on without them with skip_unreadable=True (--skip-unreadable)"
        )
    return [f"{len(bad)} unreadable pictures are left out: {some(map(str, bad))}"]
