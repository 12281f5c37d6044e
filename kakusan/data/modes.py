"""Bringing pictures of several kinds to one: a stated rule for modes and bits, and a sensible size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kakusan.data.fit import Fit
from kakusan.data.reading import Header, Picture

CHANNEL_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
LARGEST_AUTO = 64
_LARGEST_COMMON = 256


@dataclass(frozen=True)
class Plan:
    """What every picture becomes: mode (L, LA, RGB, RGBA, or "" for arrays), channels, bits, size (H, W) and fit."""

    mode: str
    channels: int
    bits: int
    size: tuple[int, int]
    fit: Fit

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """uint8 or uint16."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def row_bytes(self) -> int:
        """Bytes of one picture."""
        return self.channels * self.size[0] * self.size[1] * self.bits // 8

    def apply(self, picture: Picture) -> np.ndarray:
        """Picture -> (C, H, W)."""
        values = picture.values
        if self.bits == 16 and values.dtype == np.uint8:
            values = values.astype(np.uint16) * 257
        if self.mode != picture.mode:
            values = to_mode(values, picture.mode, self.mode)
        return self.fit.apply(values, self.size, alpha=self.mode in ("LA", "RGBA")).transpose(2, 0, 1)


def to_mode(values: np.ndarray, old: str, new: str) -> np.ndarray:
    """(H, W, C) in another mode. Clear parts go over white, gray is ITU-R 601 luminance; 8 and 16 bits alike."""
    # Every sum below stays under 2**32, also with 16 bits.
    top = int(np.iinfo(values.dtype).max)
    alpha = values[:, :, -1:] if old in ("LA", "RGBA") else None
    colour = (values if alpha is None else values[:, :, :-1]).astype(np.uint32)
    if alpha is not None and new in ("L", "RGB"):
        colour = (colour * alpha + (top - alpha.astype(np.uint32)) * top + top // 2) // top
    if new in ("L", "LA") and colour.shape[2] == 3:
        red, green, blue = (colour[:, :, c : c + 1] for c in range(3))
        colour = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> np.uint32(16)
    elif new in ("RGB", "RGBA") and colour.shape[2] == 1:
        colour = colour.repeat(3, axis=2)
    if new in ("LA", "RGBA"):
        opacity = np.full(colour.shape[:2] + (1,), top, np.uint32) if alpha is None else alpha
        colour = np.concatenate([colour, opacity.astype(np.uint32)], axis=2)
    return colour.astype(values.dtype)


def make_plan(
    headers: Sequence[Header], names: Sequence[str], *, size: tuple[int, int] | None, fit: Fit, channels: int | None
) -> tuple[Plan, list[str]]:
    """One plan for pictures with these headers, and what to tell about it.

    The common mode holds everything: RGB when any is coloured, with opacity when any has it, 16 bits when any has them.

    Raises:
        ValueError: arrays with different channel counts, or a number of channels nothing can be brought to.
    """
    mode, count, notes = _common_mode(headers, names, channels)
    bits = max(h.bits for h in headers)
    narrow = sum(h.bits < bits for h in headers)
    if narrow:
        notes.append(f"{narrow} of {len(headers)} pictures have 8 bits and are spread to 16 (times 257)")
    if size is None:
        size, said = _sensible_size(headers)
        notes.append(said)
    changed = sum((h.height, h.width) != size for h in headers)
    if changed:
        notes.append(f"{changed} of {len(headers)} pictures are brought to {size[0]}x{size[1]} by {fit}")
    grown = sum(h.height < size[0] and h.width < size[1] for h in headers)
    if grown:
        notes.append(f"{grown} of {len(headers)} pictures are smaller than {size[0]}x{size[1]} and are enlarged")
    animated = sum(h.frames for h in headers)
    if animated:
        notes.append(f"{animated} files hold several pictures; the first of each is taken")
    return Plan(mode, count, bits, size, fit), notes


def _common_mode(headers: Sequence[Header], names: Sequence[str], channels: int | None) -> tuple[str, int, list[str]]:
    kinds = Counter((h.mode, h.channels) for h in headers)
    arrays = {c for m, c in kinds if m == ""}
    if arrays:
        return _array_mode(headers, names, channels, arrays)
    modes = {m for m, _ in kinds}
    if channels is None:
        colour = any(m.startswith("RGB") for m in modes)
        mode = ("RGB" if colour else "L") + ("A" if any(m.endswith("A") for m in modes) else "")
    elif channels in CHANNEL_MODES:
        mode = CHANNEL_MODES[channels]
    else:
        raise ValueError(f"pictures can be brought to 1, 2, 3 or 4 channels, not {channels}; use .npy arrays for more")
    notes = []
    if modes != {mode}:
        counts = ", ".join(f"{n} {m}" for (m, _), n in kinds.most_common())
        rule = " (clear parts over white)" if not mode.endswith("A") and any(m.endswith("A") for m in modes) else ""
        rule += " (colour becomes luminance)" if not mode.startswith("RGB") and any("RGB" in m for m in modes) else ""
        notes.append(f"pictures are {counts}; all become {mode}{rule}")
    return mode, len(mode), notes


def _array_mode(
    headers: Sequence[Header], names: Sequence[str], channels: int | None, arrays: set[int]
) -> tuple[str, int, list[str]]:
    counts = {h.channels for h in headers}
    if len(counts) > 1:
        examples = [names[[h.channels for h in headers].index(c)] for c in sorted(counts)]
        pairs = ", ".join(f"{n} has {c}" for n, c in zip(examples, sorted(counts), strict=True))
        raise ValueError(f"arrays and pictures must all have the same number of channels: {pairs}")
    count = arrays.pop()
    if channels not in (None, count):
        raise ValueError(f"the arrays have {count} channels and cannot be brought to {channels}")
    return "", count, []


def _sensible_size(headers: Sequence[Header]) -> tuple[tuple[int, int], str]:
    sizes = {(h.height, h.width) for h in headers}
    only = next(iter(sizes))
    if len(sizes) == 1 and max(only) <= _LARGEST_COMMON:
        return only, f"size {only[0]}x{only[1]}, as all pictures have"
    short = int(np.median([min(h.height, h.width) for h in headers]))
    side = min(LARGEST_AUTO, short if short < 8 else short // 8 * 8)
    return (
        side,
        side,
    ), f"size {side}x{side} chosen (median short side {short}, at most {LARGEST_AUTO}); --size changes it"
