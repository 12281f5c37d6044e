"""How many threads decode pictures while a network trains: chosen by measuring both, and changed when they change."""

from __future__ import annotations

from kakusan.data.decoding import Decoder

LOOK_AT = 8
"""Batches between two decisions."""
BUSY = 0.9
"""Share of a step's time that decoding a batch may take."""
IDLE = 0.45
"""Share below which half the threads would still be quick enough, and leave the processor to the network."""
GAIN = 0.9
"""Twice the threads must take less than this part of the time, or they only get in each other's way."""


class DecodingPace:
    """Sets `decoder.workers`. What is decoded never depends on it.

    Args:
        decoder: whose threads; where the user chose their number nothing is changed.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._reading: list[float] = []
        self._steps: list[float] = []
        self._before: tuple[int, float] | None = None
        self._useless: int | None = None

    def observe(self, reading: float, step: float) -> None:
        """Take note of one batch: seconds it took to read, and seconds the network worked meanwhile."""
        if not self._decoder.measured:
            return
        self._reading.append(reading)
        self._steps.append(step)
        if len(self._reading) < LOOK_AT:
            return
        # Medians, because a checkpoint or a measurement now and then is neither reading nor a step.
        middle = LOOK_AT // 2
        read, worked = sorted(self._reading)[middle], sorted(self._steps)[middle]
        self._reading, self._steps = [], []
        self._decide(read, worked)

    def _decide(self, read: float, worked: float) -> None:
        workers = self._decoder.workers
        if self._before is not None:
            fewer, earlier = self._before
            self._before = None
            if read > GAIN * earlier:
                self._useless = workers
                self._decoder.workers = fewer
                return
        if read > BUSY * worked and workers < self._decoder.most:
            more = min(2 * workers, self._decoder.most)
            if self._useless is None or more < self._useless:
                self._before = workers, read
                self._decoder.workers = more
        elif read < IDLE * worked and workers > 1:
            self._useless = None
            self._decoder.workers = workers // 2
