"""Kinds of settings, and how the command line shows them. Imports no torch, and runs without `tyro`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

try:
    from tyro.conf import arg as arg
except ImportError:  # Only the command line needs it: a machine without it can still train and sample from Python.

    def arg(**_: Any) -> None:  # type: ignore[no-redef]
        """Nothing: there is no command line to say it to."""


# Options that may be left out, shown in the help by their kind alone.
MaybeInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
MaybeInts = Annotated[tuple[int, ...] | None, arg(metavar="[INT ...]", help_behavior_hint="")]
MaybeFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
MaybeText = Annotated[str | None, arg(metavar="STR", help_behavior_hint="")]
MaybePath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
MaybeBool = Annotated[bool | None, arg(metavar="{True,False}", help_behavior_hint="")]
