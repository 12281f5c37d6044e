"""Which process this is, told by the environment that torchrun, Slurm or Ray set up."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from kakusan.runtime import pick_device


@dataclass(frozen=True)
class Place:
    """Which process of how many this is, as the environment says (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE)."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def here(cls) -> Place:
        """The place of this process; the only one where the environment says nothing."""
        size = _number("WORLD_SIZE", 1)
        if size <= 1:
            return cls()
        return cls(_number("RANK", 0), size, _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", size))

    def device(self, name: str) -> torch.device:
        """The device called `name` (auto, cpu, cuda); of several processes each takes the GPU of its local rank.

        Raises:
            ValueError: more processes than GPUs, or a device that several cannot share.
        """
        device = pick_device(name)
        if self.size == 1:
            return device
        here = self.local_size
        if device.type == "mps" or device.index is not None:
            raise ValueError(f"{here} processes cannot share the device {name!r}; give cpu, or cuda for one GPU each")
        if device.type != "cuda":
            return device
        count = torch.cuda.device_count()
        if here > count:
            raise ValueError(
                f"{here} processes were started on a machine with {count} GPUs; start one for each of them: "
                f"--nproc-per-node {count}"
            )
        return torch.device("cuda", self.local_rank)


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return otherwise
    if not text.isdecimal():
        raise ValueError(f"the environment says {name}={text!r}, which is not a number of processes")
    return int(text)
