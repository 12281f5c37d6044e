"""Stored pictures that stay on the accelerator, where batches are then cut out of them."""

from __future__ import annotations

import torch
from torch import Tensor

from kakusan.data.source import Pictures, decoder_of

SHARE = 0.25
"""Part of the free memory of the accelerator that pictures may take; the network's own needs come on top."""
_CHUNK_BYTES = 64 * 2**20


def stored_bytes(pictures: Pictures) -> int:
    """Bytes of all stored pictures."""
    row = pictures.spec.channels * pictures.spec.bits // 8
    for extent in pictures.spec.size:
        row *= extent
    return row * len(pictures)


def fits(pictures: Pictures, device: torch.device, share: float = SHARE) -> bool:
    """Whether the set comfortably fits on the device.

    On the CPU nothing is gained: pictures are in memory already. And a set that is decoded when read would have to be
    decoded whole before the first step.
    """
    if device.type != "cuda" or decoder_of(pictures) is not None:
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return stored_bytes(pictures) <= share * free


class Resident:
    """A whole data set on one device.

    Args:
        pictures: the set, read once and checked against its spec.
        device: where it stays.

    Raises:
        ValueError: pictures that are not what the spec says.
    """

    def __init__(self, pictures: Pictures, device: torch.device) -> None:
        count, spec = len(pictures), pictures.spec
        # Few operations on accelerators know 16-bit unsigned integers; the same bits as signed ones all do.
        self._deep = spec.bits == 16
        kept_as = torch.int16 if self._deep else spec.dtype
        self._stored = torch.empty((count, *spec.shape), dtype=kept_as, device=device)
        rows = max(1, _CHUNK_BYTES * count // max(1, stored_bytes(pictures)))
        for start in range(0, count, rows):
            part = pictures.read(range(start, min(count, start + rows)))
            spec.check(part)
            self._stored[start : start + len(part)] = part.view(kept_as).to(device)
        self._labels = None if pictures.labels is None else pictures.labels.to(device)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """(stored values (n, C, *size), uint8 or int32, and labels (n,) or None) on the device.

        Args:
            indices: (n,) int64 on the CPU.
        """
        rows = indices.to(self._stored.device, non_blocking=True)
        labels = None if self._labels is None else self._labels.index_select(0, rows)
        stored = self._stored.index_select(0, rows)
        return (stored.to(torch.int32) & 0xFFFF if self._deep else stored), labels
