"""Many processes: who is here, what they agree on, and what ends all of them when one is lost.

`torchrun` (or Slurm, or Ray) says in the environment how many processes there are; without it a `World` has one and
does nothing. What the processes tell each other beside gradients is JSON in the store that torch keeps for them, never
a pickle. Each gives a sign of life once a second there, so a wait may take as long as it must (a checkpoint, a preview,
a long compilation) while a process that is gone is missed within a minute, and by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

BEAT_S = 1.0
# Without a sign of life for so long a process counts as lost. One that dies is noticed at once by its closed
# connections; this is for those that hang, or whose machine is gone.
LOST_AFTER_S = 40.0
# After a broken connection: how long to look who no longer gives a sign of life.
LOOK_S = 3.0
_ENDED = "ended"


class LostRank(ValueError):
    """Another process of this run has ended or no longer answers; the message says which and, if it said so, why."""


class World:
    """The processes that work together, and the place of this one among them.

    With one process every method is the plain thing: nothing is sent and nothing waited for.

    Args:
        rank: number of this process, from 0. Process 0 alone writes, draws and prints.
        size: number of processes.
        local_rank: number of this process on its machine.
        device: where this process computes.
        store: torch's key-value store of the processes; None for one process.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        device: torch.device | str = "cpu",
        store: Store | None = None,
    ) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"ranks run from 0 to {size - 1}, got {rank}")
        if size > 1 and store is None:
            raise ValueError("several processes need a store; use joining.join()")
        self.rank, self.size, self.local_rank, self.device = rank, size, local_rank, torch.device(device)
        self._store = store
        self._asked = 0
        self._broken = False
        self._gone: str | None = None
        self._told = threading.Event()
        self._over = threading.Event()
        self._seen: dict[int, tuple[str, float]] = {}
        self._life: threading.Thread | None = None
        if store is not None:
            self._beat(0)
            self.barrier()
            self._life = threading.Thread(target=self._live, name="kakusan-life", daemon=True)
            self._life.start()

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes, draws and prints."""
        return self.rank == 0

    def part(self, count: int) -> tuple[int, int]:
        """(first, number) of the rows of this process, of `count` rows cut into contiguous parts as equal as can be."""
        first = count * self.rank // self.size
        return first, count * (self.rank + 1) // self.size - first

    @property
    def broken(self) -> bool:
        """Whether a failure has ended it; its reason was told."""
        return self._broken

    # What is agreed on. Every process must call these in the same order.

    def decide(self, make: Callable[[], T]) -> T:
        """What `make` returns in process 0 (plain JSON values), in every process."""
        if self._store is None:
            return make()
        key = self._key("decision")
        if self.main:
            value = make()
            self._store.set(key, json.dumps(value))
            return value
        return json.loads(self._get(key))

    def alone(self, work: Callable[[], T]) -> T | None:
        """Process 0 does the work while the others wait for it, however long it takes; they get None."""
        if self._store is None:
            return work()
        key = self._key("alone")
        if self.main:
            result = work()
            self._store.set(key, "done")
            return result
        self._get(key)
        return None

    def first(self, work: Callable[[], T]) -> T:
        """Every process does the work, process 0 before the others: they find what it has cached."""
        if self._store is None:
            return work()
        result = self.alone(work)
        if not self.main:
            result = work()
        self.barrier()
        return result  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The values (plain JSON) of all processes, by rank, in every process."""
        if self._store is None:
            return [value]
        key = self._key("value")
        self._store.set(f"{key}/{self.rank}", json.dumps(value))
        return [json.loads(self._get(f"{key}/{rank}")) for rank in range(self.size)]

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.gather(None)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes, bit for bit the same in each; of one process, itself."""
        if self._store is not None:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process. One small sum on the CPU: cheap enough for every step."""
        return flag if self._store is None else bool(self.sum(torch.tensor(float(flag))).item() > 0.0)

    def rows(self, part: Tensor) -> Tensor:
        """The parts (B_rank, ...) of all processes, joined by rank: (sum of B_rank, ...)."""
        if self._store is None:
            return part
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(part)
        counts = [int(n) for n in self.sum(sizes).tolist()]
        # Collectives take equal shapes, so shorter parts are filled up.
        filled = part.new_zeros(max(counts), *part.shape[1:])
        filled[: len(part)] = part
        found = [torch.empty_like(filled) for _ in counts]
        dist.all_gather(found, filled)
        return torch.cat([each[:count] for each, count in zip(found, counts, strict=True)])

    # What ends all when one is lost.

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Context that gives every failure its reason, here and in the other processes.

        Raises:
            LostRank: in place of what torch says about a broken connection.
        """
        try:
            yield
        except LostRank as found:
            self._fail(found)
            raise
        except BaseException as error:
            lost = self._explain(error)
            if lost is not None:
                self._fail(lost)
                raise lost from error
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Tell the others, and torchrun, why this process ends."""
        self._broken = True
        self._told.set()
        _tell_torchrun(error)
        if self._store is None or isinstance(error, LostRank):
            return
        with contextlib.suppress(RuntimeError):
            what = str(error).strip() or type(error).__name__
            self._store.compare_set(_ENDED, "", f"{self.rank}:{what}"[:2000])

    def _explain(self, error: BaseException) -> LostRank | None:
        """Who is to blame for a failed exchange, None when it is nobody else."""
        if self._store is None or not isinstance(error, RuntimeError):
            return None
        until = time.monotonic() + LOOK_S
        before: dict[int, str] | None = None
        try:
            while time.monotonic() < until:
                ended = self._ended()
                if ended is not None:
                    return LostRank(ended)
                if before is None:
                    before = self._beats()
                time.sleep(0.2)
            now = self._beats()
        except RuntimeError:
            return LostRank(f"{self._name(0)} is gone, and with it the store of the processes. {_AGAIN}")
        still = [self._name(r) for r in range(self.size) if r != self.rank and now[r] == (before or {}).get(r)]
        if not still:
            return None
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        # Without its place in the source; the first sentence, because advice for developers of the library follows it.
        first = re.sub(r"^\[[^]]*\]\s*", "", line).split(". ")[0]
        return LostRank(f"{' and '.join(still)} gave no more sign of life (killed?): {first[:200]}. {_AGAIN}")

    def _ended(self) -> str | None:
        """Why another process ended, if one said so."""
        assert self._store is not None
        if not self._store.check([_ENDED]):
            return None
        rank, _, what = self._store.get(_ENDED).decode("utf-8", errors="replace").partition(":")
        return None if int(rank) == self.rank else f"{self._name(int(rank))} ended: {what}"

    def _name(self, rank: int) -> str:
        return f"rank {rank} of {self.size}"

    def _key(self, what: str) -> str:
        self._asked += 1
        return f"{what}/{self._asked}"

    def _get(self, key: str) -> str:
        """The value of a key, waited for by asking again and again: torch's own wait would hold up the signs of
        life.
        """
        assert self._store is not None
        pause = 0.001
        while not self._store.check([key]):
            ended = self._gone or self._ended()
            if ended is not None:
                raise LostRank(ended)
            if pause >= 0.1:
                left = [self._name(rank) for rank, value in self._beats().items() if value == _LEFT]
                if left and not self._store.check([key]):
                    raise LostRank(f"{' and '.join(left)} left before the others were done")
            time.sleep(pause)
            pause = min(0.1, 1.5 * pause)
        return self._store.get(key).decode("utf-8")

    def _beat(self, number: int) -> None:
        assert self._store is not None
        self._store.set(f"life/{self.rank}", f"{number} {socket.gethostname()} {os.getpid()}")

    def _beats(self) -> dict[int, str]:
        assert self._store is not None
        keys = [f"life/{rank}" for rank in range(self.size)]
        return {rank: value.decode() for rank, value in enumerate(self._store.multi_get(keys))}

    def _live(self) -> None:
        """A thread: give signs of life and watch those of the others."""
        number = 0
        while not self._over.wait(BEAT_S):
            number += 1
            try:
                self._beat(number)
                reason = self._ended() or self._silent()
            except RuntimeError:
                reason = f"{self._name(0)} is gone, and with it the store of the processes. {_AGAIN}"
            if reason is not None:
                self._gone = reason
                # Whoever waits in Python hears it now; a process held inside a collective can only be ended.
                if not self._told.wait(LOOK_S + 2.0) and not self._over.is_set():
                    print(f"kakusan: {reason}", file=sys.stderr, flush=True)
                    _tell_torchrun(LostRank(reason))
                    os._exit(1)
                return

    def _silent(self) -> str | None:
        now = time.monotonic()
        for rank, value in self._beats().items():
            if rank == self.rank or value == _LEFT:
                continue
            if self._seen.get(rank, ("", 0.0))[0] != value:
                self._seen[rank] = (value, now)
            elif now - self._seen[rank][1] > LOST_AFTER_S:
                _, host, process = value.split(" ", 2)
                who = f"{self._name(rank)} (process {process} on {host})"
                return f"{who} gave no sign of life for {LOST_AFTER_S:.0f} s. {_AGAIN}"
        return None

    def leave(self) -> None:
        """Say goodbye; at the end of the program this is done by itself."""
        if self._store is None or self._over.is_set():
            return
        self._over.set()
        self._told.set()
        if self._life is not None:
            self._life.join(2.0)
        with contextlib.suppress(RuntimeError):
            self._store.set(f"life/{self.rank}", _LEFT)
            # Process 0 may be the one that holds the store.
            until = time.monotonic() + (0.0 if self._broken else LOOK_S)
            while self.main and time.monotonic() < until and set(self._beats().values()) != {_LEFT}:
                time.sleep(0.02)
        if not self._broken and dist.is_initialized():
            dist.destroy_process_group()


_LEFT = "left"
_AGAIN = "The last checkpoint is whole: start the same command again to go on from it"


def hush(line: str) -> None:
    """Say nothing: what every process but the first is given to speak with."""


def _tell_torchrun(error: BaseException) -> None:
    """torchrun shows what it finds in this file beside the exit code."""
    if not os.environ.get("TORCHELASTIC_ERROR_FILE"):
        return
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    with contextlib.suppress(Exception):
        get_error_handler().record_exception(error)  # type: ignore[arg-type]
