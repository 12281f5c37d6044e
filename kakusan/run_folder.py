"""The run folder: `config.toml env.json metrics.jsonl samples/ report.html checkpoints/step-N/ latest`.

Every checkpoint is a model folder with the optimizer's state beside it. It is written under a temporary name, synced and
renamed, and only then named in `latest`: killed at any instant, the run keeps its last whole checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kakusan.model_folder import FACTS, CorruptModel, ModelFacts, read_facts, read_tensors, write

if TYPE_CHECKING:
    from torch import Tensor

    from kakusan.model_folder import Model

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"


def sync_folder(path: Path) -> None:
    """Make the renames inside a folder survive a power cut, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class RunFolder:
    """A folder in which one model is trained."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "config.toml").is_file()

    def create(self) -> None:
        """Make the folder.

        Raises:
            ValueError: it exists and holds something that is not a run.
        """
        if self.path.exists() and not self.exists() and any(self.path.iterdir()):
            raise ValueError(
                f"{self.path} is not empty and is not a run of kakusan's; choose another --out, nothing is overwritten"
            )
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.samples.mkdir(exist_ok=True)
        for leftover in self.checkpoints.glob(".part-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, rising."""
        found = [p.name.removeprefix("step-") for p in self.checkpoints.glob("step-*") if (p / FACTS).is_file()]
        return sorted(int(name) for name in found if name.isdigit())

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint at a step."""
        return self.checkpoints / f"step-{step:08d}"

    def latest(self) -> Path | None:
        """The newest checkpoint, None when none was written yet.

        Raises:
            CorruptModel: `latest` names a checkpoint that is not there. Training never starts anew by itself.
        """
        pointer = self.path / "latest"
        if not pointer.is_file():
            if self.steps():
                raise CorruptModel(
                    f"{pointer} is missing although there are checkpoints; write the name of one of "
                    f"{[self.checkpoint(s).name for s in self.steps()]} into it to go on from there"
                )
            return None
        name = pointer.read_text(encoding="utf-8").strip()
        folder = self.checkpoints / name
        if Path(name).name != name or not (folder / FACTS).is_file():
            known = ", ".join(self.checkpoint(s).name for s in self.steps()) or "none"
            raise CorruptModel(f"{pointer} names {name!r}, which is missing or incomplete; whole checkpoints here: {known}")
        return folder

    def save(
        self,
        step: int,
        model: Model,
        facts: ModelFacts,
        averages: Mapping[str, Mapping[str, Tensor]],
        optimizer: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> Path:
        """Write the checkpoint of a step, whole or not at all, and point `latest` to it.

        Raises:
            ValueError: the state is not finite, or the disk is full; checkpoints written before stay as they are.
        """
        target = self.checkpoint(step)
        temporary = self.checkpoints / f".part-{target.name}-{os.getpid()}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            (temporary / STATE).write_text(json.dumps(dict(state), indent=1) + "\n", encoding="utf-8")
            write(temporary, model, facts, averages, {OPTIMIZER: optimizer})
            for file in temporary.iterdir():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
            sync_folder(self.checkpoints)
            write_text(self.path / "latest", target.name + "\n")
            sync_folder(self.path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            kept = self.steps()
            raise ValueError(
                f"the checkpoint of step {step} could not be written to {self.checkpoints}: {error.strerror or error}. "
                + (f"The checkpoint of step {kept[-1]} is whole; free some space" if kept else "Free some space")
                + " and start the same command again to go on from there"
            ) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return target

    def thin(self, keep: set[int], *, newest: int = 2) -> None:
        """Delete checkpoints but the newest ones and those in `keep`."""
        steps = self.steps()
        for step in steps[:-newest]:
            if step not in keep:
                folder = self.checkpoint(step)
                # Renamed first: a half-deleted folder must not look like a checkpoint.
                doomed = self.checkpoints / f".part-old-{folder.name}"
                os.replace(folder, doomed)
                shutil.rmtree(doomed, ignore_errors=True)


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, Any]]:
    """(weights, optimizer tensors, averages by profile, plain numbers) of a checkpoint, checked against their hashes."""
    from kakusan.model_folder import EMA, WEIGHTS

    facts = read_facts(folder)
    averages: dict[str, dict[str, Tensor]] = {}
    for name, value in read_tensors(folder, EMA, facts).items():
        profile, key = name.split("/", 1)
        averages.setdefault(profile, {})[key] = value
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CorruptModel(f"{folder / STATE} is missing or damaged: {error}") from None
    return read_tensors(folder, WEIGHTS, facts), read_tensors(folder, OPTIMIZER, facts), averages, state


def find_model(path: str | Path) -> Path:
    """The model folder that a path means: a run (its newest checkpoint), a checkpoint, or a model folder.

    Raises:
        ValueError: no such folder, or none of these.
    """
    folder = Path(path)
    if not folder.exists():
        raise ValueError(f"there is no run or model at {folder}; `kakusan list` shows what there is")
    if (folder / FACTS).is_file():
        return folder
    run = RunFolder(folder)
    if run.exists():
        latest = run.latest()
        if latest is None:
            raise ValueError(f"the run {folder} has no checkpoint yet; start its training again to make one")
        return latest
    raise ValueError(f"{folder} is neither a run nor a model folder of kakusan's (no config.toml, no {FACTS})")
