"""Training and held-out pictures of a run, from its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from kakusan.choices import choose
from kakusan.config import DataSettings
from kakusan.data.fit import FITS
from kakusan.data.source import EMBEDDED, Pictures, Subset, open_data, split_held_out
from kakusan.distill.reflow import PairFolder, Pairs
from kakusan.objectives import Objective


def open_parts(data: DataSettings, *, seed: int, say: Callable[[str], None] | None = None) -> tuple[Pictures, Pictures]:
    """(pictures to train on, pictures to measure on); what was decided on the way goes to `say`."""
    training, held_out = _parts(data, seed=seed if data.held_out_seed is None else data.held_out_seed, say=say)
    if not data.augment:
        return training, held_out
    augmented = dataclasses.replace(training.spec, augment=data.augment)
    return Subset(training, range(len(training)), spec=augmented), held_out


def _parts(data: DataSettings, *, seed: int, say: Callable[[str], None] | None) -> tuple[Pictures, Pictures]:
    pairs = PairFolder(data.source)
    if pairs.exists():
        if data != DataSettings(source=data.source, held_out=data.held_out, cache=data.cache):
            raise ValueError(f"{data.source} holds pairs of reflow, which take no setting but held_out: they are ready")
        return pairs.open().split(data.held_out)
    options: dict[str, Any] = {"size": data.size, "flip": data.flip or None, **_caption_options(data)}
    name, _, part = data.source.partition(":")
    if name in EMBEDDED:
        _refuse_ignored(data, name)
        if data.num is not None:
            options["num"] = data.num
        training = open_data(data.source, **options)
        if data.num is not None:
            options["num"] = max(64, data.num // 8)
        if not part:
            return training, open_data(f"{name}:held-out", **options)
    else:
        if data.num is not None:
            raise ValueError("num is the size of an embedded set; for a folder use limit_per_class")
        options["fit"] = choose(FITS, data.fit, "fit")
        optional = {
            "classes": list(data.classes) or None,
            "limit_per_class": data.limit_per_class,
            "channels": data.channels,
            "skip_unreadable": data.skip_unreadable or None,
            "cache": data.cache,
        }
        options |= {name: value for name, value in optional.items() if value is not None}
        training = open_data(data.source, **options)
    notes = list(training.notes)
    kept, held_out = split_held_out(training, data.held_out, seed)
    for note in [*notes, *(n for n in kept.notes if n not in notes)]:
        if say is not None:
            say(f"data: {note}")
    return kept, held_out


def _caption_options(data: DataSettings) -> dict[str, Any]:
    """What is to be done about captions; nothing said leaves those that the pictures bring."""
    chosen = {
        "captions": data.captions,
        "captions_column": data.captions_column,
        "captions_where": data.captions_where,
        "captioned_only": data.captioned_only or None,
        "templates": data.templates or None,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def coupled(objective: Objective, pictures: Pictures) -> Objective:
    """The objective with the coupling that the data bring along, where they do: pairs of reflow know their noise."""
    return dataclasses.replace(objective, coupling=pictures.coupling) if isinstance(pictures, Pairs) else objective


def _refuse_ignored(data: DataSettings, name: str) -> None:
    """An embedded set comes ready: settings that would do nothing are an error, not a surprise."""
    default = DataSettings()
    given = [
        f
        for f in ("fit", "channels", "classes", "limit_per_class", "skip_unreadable")
        if getattr(data, f) != getattr(default, f)
    ]
    if given:
        raise ValueError(f"the embedded data set {name!r} takes no setting {' or '.join(given)}; those are for folders")
