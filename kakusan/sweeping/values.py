"""Reading the values of an axis: `a:b:n` is n evenly spaced numbers with both ends, `x,y,z` a list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

Value: TypeAlias = "float | int | str | None"
T = TypeVar("T")

MOST = 1000
"""Values of one axis, at most: more could not be told apart on any sheet."""


def split(text: str, name: str) -> list[str]:
    """The words of a list.

    Raises:
        ValueError: there is none, or one is empty.
    """
    words = [word.strip() for word in text.split(",")]
    if not text.strip():
        raise ValueError(f"the axis {name} has no values; give {name}=x,y,z, or {name}=a:b:n for n numbers from a to b")
    if not all(words):
        raise ValueError(f"the axis {name} has an empty value in {text!r}; put one comma between two values")
    return words


def distinct(values: Sequence[T], name: str) -> tuple[T, ...]:
    """The values, each of them once and not too many.

    Raises:
        ValueError: one stands there twice, or there are too many.
    """
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"the axis {name} has the value {twice[0]} twice; name each value once")
    if len(values) > MOST:
        raise ValueError(f"the axis {name} has {len(values)} values; at most {MOST} can be shown")
    return tuple(values)


def numbers(text: str, name: str, *, whole: bool = False) -> list[float]:
    """The numbers of `a:b:n` or `x,y,z`; of whole numbers, a range is rounded to them.

    Raises:
        ValueError: what stands there is no finite number (or no whole one), or the range is not one.
    """
    if ":" not in text:
        return [_number(word, name, whole) for word in split(text, name)]
    parts = [part.strip() for part in text.split(":")]
    if len(parts) != 3 or not all(parts):
        raise ValueError(
            f"the axis {name} has the range {text!r}; expected first:last:count, as in {name}=0:10:11, or a list x,y,z"
        )
    first, last = (_number(part, name, whole) for part in parts[:2])
    count = int(_number(parts[2], name, True))
    if not 1 <= count <= MOST:
        raise ValueError(f"the axis {name} asks for {count} values; expected 1 to {MOST}")
    if count == 1 and first != last:
        raise ValueError(f"the axis {name} goes from {first:g} to {last:g} in one value; ask for at least 2")
    # Twelve digits: thirds stay thirds, and 0.1 + 0.2 is 0.3.
    steps = max(count - 1, 1)
    spread = [(first * (steps - i) + last * i) / steps for i in range(count)]
    return [float(round(value)) if whole else float(f"{value:.12g}") + 0.0 for value in spread]


def _number(word: str, name: str, whole: bool) -> float:
    kind = "a whole number" if whole else "a number"
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"the axis {name} has the value {word!r}, which is not {kind}") from None
    if not math.isfinite(value) or (whole and value != round(value)):
        raise ValueError(f"the axis {name} has the value {word!r}; expected {kind}")
    # A seed may have more digits than a float holds.
    return int(word) if whole and word.lstrip("+-").isdecimal() else value


def said(value: Value) -> str:
    """A value as it stands beside a picture."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return (str(value) if isinstance(value, int) else f"{value:g}").replace("-", "\N{MINUS SIGN}")
