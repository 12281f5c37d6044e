"""Objects to JSON and back, through an allow-list.

A checkpoint names its parts (`{"type": "Cosine"}`) and only classes registered here are ever built from a file:
nothing is imported by name and nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_REGISTRY: dict[str, type] = {}
_ARGUMENTS = "_spec_arguments"
_FLOAT = "float"


def register(cls: type[T]) -> type[T]:
    """Class decorator: allow `cls` in model files.

    A dataclass is stored by its fields. Any other class is stored by the arguments its constructor was called with,
    which are recorded at construction.
    """
    name = cls.__name__
    if name in _REGISTRY and _REGISTRY[name].__module__ != cls.__module__:
        raise ValueError(f"two classes are registered as {name!r}")
    _REGISTRY[name] = cls
    if not dataclasses.is_dataclass(cls):
        _record_arguments(cls)
    return cls


def _record_arguments(cls: type) -> None:
    original: Callable[..., None] = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        original(self, *args, **kwargs)
        arguments = dict(list(bound.arguments.items())[1:])
        object.__setattr__(self, _ARGUMENTS, arguments)

    cls.__init__ = init  # type: ignore[misc]


def to_spec(value: Any) -> Any:
    """JSON form of a registered object, or of plain data holding such objects."""
    if type(value).__name__ in _REGISTRY and _REGISTRY[type(value).__name__] is type(value):
        if dataclasses.is_dataclass(value):
            arguments = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        else:
            arguments = getattr(value, _ARGUMENTS)
        return {"type": type(value).__name__, **{k: to_spec(v) for k, v in arguments.items()}}
    if isinstance(value, Mapping):
        return {str(k): to_spec(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_spec(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such number.
        return {"type": _FLOAT, "value": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{type(value).__name__} cannot be stored in a model file: decorate its class with specs.register")


def from_spec(spec: Any, expected: type[T]) -> T:
    """Build what `to_spec` described.

    Raises:
        ValueError: unknown type or argument (with a suggestion), or an object of another kind than `expected`.
    """
    value = _build(spec)
    if not isinstance(value, expected):
        raise ValueError(f"expected a {expected.__name__} in the model file, found {_describe(spec)}")
    return value


def _build(spec: Any) -> Any:
    if isinstance(spec, list):
        return tuple(_build(v) for v in spec)
    if not isinstance(spec, dict):
        return spec
    if "type" not in spec:
        return {k: _build(v) for k, v in spec.items()}
    name = spec["type"]
    if name == _FLOAT:
        return float(spec["value"])
    cls = _REGISTRY.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ValueError(f"unknown type {name!r} in the model file{suggestion(str(name), list(_REGISTRY))}")
    arguments = {k: _build(v) for k, v in spec.items() if k != "type"}
    known = list(inspect.signature(cls).parameters)
    for key in arguments:
        if key not in known:
            raise ValueError(f"{name} has no argument {key!r}{suggestion(key, known)}")
    return cls(**arguments)


def _describe(spec: Any) -> str:
    return repr(spec.get("type")) if isinstance(spec, dict) else repr(spec)


def suggestion(word: str, known: list[str]) -> str:
    """` (did you mean 'x'?)`, or the empty string when nothing is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
