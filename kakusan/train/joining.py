"""Joining the processes that the environment describes, and what a whole command is wrapped in."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from kakusan.runtime import pick_device
from kakusan.train.distributed import World
from kakusan.train.place import Place

# How far the processes may be apart in a step, while all of them live: one may still compile, or wait for its disk.
SKEW_S = 600.0
_world: World | None = None


def join(device: str = "auto") -> World:
    """The world that the environment describes (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, as torchrun
    sets them), one process where it describes none. Asked again, it is the same one.

    Args:
        device: auto, cpu or cuda; with several processes each takes the GPU of its local rank.

    Raises:
        ValueError: an incomplete environment, more processes than GPUs, or a device that several cannot share.
    """
    global _world
    place = Place.here()
    if place.size == 1:
        return World(device=pick_device(device))
    if _world is not None:
        return _world
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {place.size}, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set; "
            "start by torchrun, as in: torchrun --nproc-per-node 2 -m -- kakusan train ..."
        )
    where = place.device(device)
    if place.local_size == place.size and not os.environ.get("GLOO_SOCKET_IFNAME"):
        # All on this machine: nothing needs to leave it, nor its name to be known to any server.
        loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
        if loopback is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = loopback
    if not dist.is_available():
        raise ValueError("this build of torch cannot work with several processes; start one, or install another build")
    # Not there in such builds.
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    wait = timedelta(seconds=SKEW_S)
    store, rank, size = next(iter(rendezvous("env://", place.rank, place.size, timeout=wait)))
    if where.type == "cuda":
        torch.cuda.set_device(where)
    # A restart by torchrun meets the store of the attempt before.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo",
        store=PrefixStore(f"torch/{attempt}", store),
        rank=rank,
        world_size=size,
        timeout=wait,
    )
    _world = World(rank, size, place.local_rank, where, PrefixStore(f"kakusan/{attempt}", store))
    atexit.register(_world.leave)
    return _world


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """As `World.watch`, of the world that was joined inside it, if any: for whole commands."""
    try:
        yield
    except BaseException as error:
        if _world is None or _world.broken or (isinstance(error, SystemExit) and not error.code):
            raise
        with _world.watch():
            raise
