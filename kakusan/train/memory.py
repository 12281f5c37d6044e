"""What to do when memory runs out: cut the work smaller and do the same work again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

# What torch says besides raising its own class: the CPU's allocator (Linux and macOS, then Windows), Apple's, cuBLAS.
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


class NotEnoughMemory(ValueError):
    """Not even a single sample fits."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed. A process that Linux kills for its memory raises none."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def release(device: torch.device) -> None:
    """Give cached memory back to the device, so that blocks of other sizes can be cut from it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


class Portions:
    """How many samples pass through a network at once.

    Args:
        most: at most so many; None for all there are. Halved, for good, whenever memory runs out.
        device: where the memory is.
        what: the work, for messages.
    """

    def __init__(self, most: int | None = None, *, device: torch.device, what: str = "training") -> None:
        if most is not None and most < 1:
            raise ValueError(f"at least one sample passes through the network at once, got micro_batch {most}")
        self.most, self.device, self.what = most, device, what

    def size(self, count: int) -> int:
        """Samples at once when there are `count`."""
        return count if self.most is None else min(count, self.most)

    def run(self, count: int, attempt: Callable[[int], T]) -> T:
        """`attempt(size)`, begun anew with half the size each time memory runs out.

        Raises:
            NotEnoughMemory: it ran out with a single sample.
        """
        while True:
            size = self.size(count)
            try:
                return attempt(size)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                said = (str(error).splitlines() or ["no memory"])[0]
            # Past the handler: while the error lives, its traceback holds the tensors of the failed attempt.
            release(self.device)
            if size == 1:
                raise NotEnoughMemory(
                    f"there is not enough memory for {self.what} with a single sample at once; use --checkpointing, "
                    f"a smaller --size, --width or --patch 2 ({said})"
                )
            self.most = size // 2
