"""Whether a run may go on under these settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kakusan.config import TrainConfig, merge, read_toml
from kakusan.model_folder import CorruptModel

# What may differ when a run is continued: its length, where and by what means it runs, how often it reports, and where
# the data are (that they are the same is told by their content).
MAY_CHANGE = {
    "source",
    "pair_source",
    "control",
    "cache",
    "steps",
    "minutes",
    "device",
    "precision",
    "threads",
    "compile",
    "channels_last",
    "checkpointing",
    "micro_batch",
    "parallel",
    "measurements",
    "previews",
    "checkpoints",
    "spaced",
    "snapshots",
    "watch",
    "watch_num",
    "watch_spaces",
}


def stored_config(out: str | Path) -> TrainConfig | None:
    """The configuration of the run in a folder, None when there is none."""
    path = Path(out) / "config.toml"
    return merge(TrainConfig(), read_toml(path), str(path)) if path.is_file() else None


def check_continues(old: TrainConfig, new: TrainConfig, out: Path) -> None:
    """Refuse to continue a run under settings that would make it another run.

    Raises:
        ValueError: naming every difference.
    """
    different = differences(old, new)
    if different:
        raise ValueError(
            f"the run in {out} was started with other settings ({'; '.join(different)}); leave those options out to "
            "continue it, or choose another --out"
        )


def check_checkpoint(facts: Mapping[str, Any], config: TrainConfig, checkpoint: Path) -> None:
    """Refuse a checkpoint that was not written by this run.

    Raises:
        CorruptModel: naming every difference.
    """
    stored = merge(TrainConfig(), facts.get("training", {}).get("config", {}), str(checkpoint))
    different = differences(stored, config)
    if different:
        raise CorruptModel(f"{checkpoint} is of another run ({'; '.join(different)}); bring back the one that was here")


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Settings that differ and may not."""
    found = []
    for section in dataclasses.fields(TrainConfig):
        a, b = getattr(old, section.name), getattr(new, section.name)
        for f in dataclasses.fields(a):
            x, y = getattr(a, f.name), getattr(b, f.name)
            if x != y and f.name not in MAY_CHANGE:
                found.append(f"{section.name}.{f.name} was {x!r}, now {y!r}")
    return found
