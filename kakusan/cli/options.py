"""Reading the options of a verb into a frozen dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], *, verb: str, default: T | None = None) -> T:
    """Options by `tyro`, sections without prefixes; unknown ones are refused with a suggestion (exit code 2).

    Args:
        kind: the dataclass that describes them; its docstring is the help.
        default: values that the options start from.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        kind,
        args=list(argv),
        prog=f"kakusan {verb}",
        config=(tyro.conf.OmitArgPrefixes,),
        **given,
    )
