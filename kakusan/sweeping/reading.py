"""From `name=values` on the command line to axes with values."""

from __future__ import annotations

from collections.abc import Sequence

from kakusan.specs import suggestion
from kakusan.sweeping.axes import ALIASES, AXES, Axis, Subject
from kakusan.sweeping.values import Value


def named(texts: Sequence[str]) -> list[tuple[Axis, str]]:
    """The axes with what stands behind their `=`; needs no model.

    Raises:
        ValueError: not one or two axes, an unknown one, or the same one twice.
    """
    if not 1 <= len(texts) <= 2:
        raise ValueError(f"a sweep has one or two axes, as in --axis guidance-scale=-10:10:41; got {len(texts)}")
    found: list[tuple[Axis, str]] = []
    for text in texts:
        name, equals, values = text.partition("=")
        name = ALIASES.get(name.strip(), name.strip())
        if name not in AXES:
            raise ValueError(f"no axis {name!r}{suggestion(name, [*AXES, *ALIASES])}; there are {', '.join(AXES)}")
        if not equals or not values.strip():
            raise ValueError(f"the axis {name} has no values; give {name}=x,y,z, or {name}=a:b:n for n from a to b")
        if any(axis.name == name for axis, _ in found):
            raise ValueError(f"the axis {name} is named twice; put all its values into one")
        found.append((AXES[name], values))
    names = {axis.name for axis, _ in found}
    if {"weights", "ema-width"} <= names:
        raise ValueError("weights and ema-width both choose the average; take one of these axes")
    return found


def read_axes(texts: Sequence[str], subject: Subject) -> list[tuple[Axis, tuple[Value, ...]]]:
    """The axes with their values.

    Raises:
        ValueError: as `named`; or a value that an axis cannot have.
    """
    return [(axis, axis.read(values, subject)) for axis, values in named(texts)]
