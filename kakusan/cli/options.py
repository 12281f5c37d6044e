"""Reading the options of a verb into a frozen dataclass."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from kakusan.config import merge, read_toml, with_length
from kakusan.specs import suggestion

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


def layered(
    settings: T,
    argv: Sequence[str],
    *,
    folder: str | None,
    recipes: Mapping[str, Callable[[], Mapping[str, Any]]] | None = None,
) -> T:
    """What the options start from: defaults < the stored settings of the run that is continued < recipe < file. A
    length on the command line takes the place of any other.

    Args:
        settings: the defaults.
        argv: the command line, for its `--out`, `--config` and `--recipe`.
        folder: of the run, where `--out` does not name one.
        recipes: named settings; none when not given.

    Raises:
        ValueError: no such recipe or file, or one that does not fit.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--out", "--config", "--steps", "--minutes", *(["--recipe"] if recipes else [])):
        early.add_argument(name)
    try:
        given, _ = early.parse_known_args(list(argv))
    except argparse.ArgumentError:
        # An option without its value: the full parser says so.
        given = early.parse_args([])

    def add(layer: Mapping[str, Any], where: str) -> T:
        return merge(with_length(settings, layer), layer, where)

    out = given.out or folder
    stored = None if out is None else Path(out) / "config.toml"
    if stored is not None and stored.is_file():
        layer = read_toml(stored)
        foreign = sorted(set(layer) - {section.name for section in dataclasses.fields(settings)})  # type: ignore[arg-type]
        if foreign:
            raise ValueError(
                f"{out} is taken by a training of another kind (its config.toml has [{foreign[0]}]); choose another "
                "--out"
            )
        settings = add(layer, str(stored))
    if recipes and given.recipe is not None:
        if given.recipe not in recipes:
            raise ValueError(
                f"no recipe {given.recipe!r}{suggestion(given.recipe, list(recipes))}; there are {', '.join(recipes)}"
            )
        settings = add(recipes[given.recipe](), f"the recipe {given.recipe}")
    if given.config is not None:
        settings = add(read_toml(given.config), given.config)
    return with_length(settings, {"run": {"steps": given.steps, "minutes": given.minutes}})
