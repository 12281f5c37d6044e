"""Being asked to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any


def catch_signals(ask: Callable[[str], None]) -> Callable[[], None]:
    """Call `ask` with the name of the first SIGINT or SIGTERM; a second one acts as usual.

    Returns:
        what puts the handlers back.
    """
    kept: dict[int, Any] = {}

    def caught(number: int, _: object) -> None:
        ask(signal.Signals(number).name)
        signal.signal(number, kept[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            kept[number] = signal.signal(number, caught)
    except ValueError:  # not in the main thread: the caller handles signals
        return lambda: None

    def restore() -> None:
        for number, handler in kept.items():
            signal.signal(number, handler)

    return restore
