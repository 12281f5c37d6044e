"""The run folder: `config.toml env.json metrics.jsonl samples/ report.html checkpoints/step-N/ latest`.

Every checkpoint is a model folder with the optimizer's state beside it. It is written under a temporary name, synced
and renamed, and only then named in `latest`: killed at any instant, the run keeps its last whole checkpoint.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kakusan.files import sync_folder, unfinished, write_text
from kakusan.model_folder import FACTS, CorruptModel, ModelFacts, read_facts, read_tensors, verified, write

if TYPE_CHECKING:
    from torch import Tensor

    from kakusan.model_folder import Model

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
_TRIES, _PAUSE_S = 4, 0.02
_TRAINING = "training in {}; wait for it, stop it, or choose another --out"
CONFIG, LATEST, BEST, LOCK = "config.toml", "latest", "best", ".lock"
# Trainings of other networks have it beside their `config.toml`.
SETTINGS = "settings.json"


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
        """Whether a run of a diffusion model was started here; the folders of other networks are theirs."""
        others = (self.path / SETTINGS).is_file() or (self.path / FACTS).is_file()
        return (self.path / CONFIG).is_file() and not others

    def check_free(self) -> None:
        """Refuse a place that holds something else; nothing is written.

        Raises:
            ValueError: it is a file, or a folder with something that is not a run.
        """
        if not self.path.exists() or self.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; --out names the folder of a run")
        # What a run that was killed in its first moment may have left.
        if set(self.path.iterdir()) - {self.path / LOCK, *unfinished(self.path)}:
            raise ValueError(
                f"{self.path} is not empty and is not a run of kakusan's; choose another --out, nothing is overwritten"
            )

    def create(self, config: str) -> IO[str]:
        """Make the folder, or clean one after a kill; returns the lock, which holds while it is open.

        Args:
            config: content of `config.toml`, which is written first: a folder that has one is a run.

        Raises:
            ValueError: the place is taken, or another process is training here.
        """
        self.check_free()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.lock()
        try:
            write_text(self.path / CONFIG, config)
            self.checkpoints.mkdir(exist_ok=True)
            self.samples.mkdir(exist_ok=True)
            for leftover in self.checkpoints.glob(".part-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            for folder in (self.path, self.samples):
                for file in unfinished(folder):
                    file.unlink(missing_ok=True)
        except BaseException:
            lock.close()
            raise
        return lock

    def lock(
        self, name: str = LOCK, said: str = "training in {}; wait for it, stop it, or choose another --out"
    ) -> IO[str]:
        """A lock that holds while it is open. The system drops it when the process ends, however it ends.

        Args:
            name: of the file.
            said: what another process is doing when it has the lock, for the error.

        Raises:
            ValueError: another process has it.
        """
        file = open(self.path / name, "a", encoding="utf-8")  # noqa: SIM115 - closed by whoever holds it
        # More than once, because `in_training` looks by taking the lock for an instant.
        for left in reversed(range(_TRIES)):
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except ImportError:  # Windows
                break
            except OSError as error:
                # Some network file systems have no locks; there the user keeps order.
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    break
                if left:
                    time.sleep(_PAUSE_S)
                    continue
                file.close()
                raise ValueError(f"another process is {said.format(self.path)}") from None
        return file

    def in_training(self) -> bool:
        """Whether another process trains here now; False where the system has no locks to tell it by."""
        if not (self.path / LOCK).is_file():
            return False
        try:
            self.lock().close()
        except ValueError:
            return True
        return False

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, rising."""
        whole = [p for p in self.checkpoints.glob("step-*") if (p / FACTS).is_file()]
        numbers = [(p, p.name.removeprefix("step-")) for p in whole]
        return sorted(int(n) for p, n in numbers if n.isdecimal() and p == self.checkpoint(int(n)))

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint at a step."""
        return self.checkpoints / f"step-{step:08d}"

    def latest(self) -> Path | None:
        """The newest checkpoint, None when none was written yet.

        Raises:
            CorruptModel: the checkpoint that `latest` names, or all of them, are gone. Training never starts anew by
                itself.
        """
        pointer = self.path / LATEST
        if not pointer.is_file():
            if self.steps():
                known = ", ".join(self.checkpoint(s).name for s in self.steps())
                raise CorruptModel(
                    f"{pointer} is missing although there are checkpoints; write the name of one of them into it "
                    "to go on "
                    f"from there: {known}"
                )
            # The first checkpoint is written before the first line of metrics.
            if self.metrics.is_file() and self.metrics.stat().st_size:
                raise CorruptModel(
                    f"{self.path} has trained, but its checkpoints are gone; bring them back, or choose another "
                    "--out to "
                    "start anew"
                )
            return None
        name = pointer.read_bytes().decode("utf-8", errors="replace").strip()
        folder = self.checkpoints / name
        if Path(name).name != name or not (folder / FACTS).is_file():
            known = ", ".join(self.checkpoint(s).name for s in self.steps()) or "none"
            raise CorruptModel(
                f"{pointer} names {name!r}, which is missing or incomplete; whole checkpoints here: {known}"
            )
        return folder

    def best(self) -> int | None:
        """Step of the checkpoint that `best` names; None when none is, or it is gone."""
        pointer = self.path / BEST
        name = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
        return next((step for step in self.steps() if self.checkpoint(step).name == name), None)

    def mark_best(self, step: int | None) -> None:
        """Name the checkpoint of a step in `best`, by which it can be loaded and by which it is kept; None names none.

        Raises:
            ValueError: there is no such checkpoint.
        """
        if step is None:
            (self.path / BEST).unlink(missing_ok=True)
            return
        if step not in self.steps():
            raise ValueError(f"{self.checkpoint(step)} is not there, so it cannot be marked as the best")
        if self.best() != step:
            write_text(self.path / BEST, self.checkpoint(step).name + "\n")

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
            text = json.dumps(dict(state), indent=1) + "\n"
            write(temporary, model, facts, averages, {OPTIMIZER: optimizer}, {STATE: text})
            for file in temporary.iterdir():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            if target.exists():
                # Of a session that was killed before `latest` named it, or went back from it: never the one named now.
                self._remove(target)
            os.replace(temporary, target)
            sync_folder(self.checkpoints)
            write_text(self.path / LATEST, target.name + "\n")
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

    def _remove(self, folder: Path) -> None:
        # Renamed first: a half-deleted folder must not look like a checkpoint.
        doomed = self.checkpoints / f".part-old-{folder.name}-{secrets.token_hex(4)}"
        os.replace(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def thin(self, keep: set[int], *, newest: int = 2) -> None:
        """Delete checkpoints but the newest ones up to the one that `latest` names, those in `keep`, the one that
        `best` names, and any later.

        Later ones exist when a run was sent back by writing an older name into `latest`.
        """
        latest = self.latest()
        if latest is None:
            return
        last = int(latest.name.removeprefix("step-"))
        steps = [step for step in self.steps() if step <= last]
        best = self.best()
        keep = keep if best is None else keep | {best}
        for step in steps[:-newest]:
            if step not in keep:
                self._remove(self.checkpoint(step))


def worth_keeping(steps: Sequence[int], planned: int, spaced: int, best: int | None) -> set[int]:
    """Which checkpoints (rising `steps`) to keep for good: `spaced` of them spread over the `planned` steps, and the
    one nearest to step `best`.
    """
    kept: set[int] = set()
    if not steps:
        return kept
    for i in range(1, spaced + 1):
        mark = planned * i / spaced
        near = [s for s in steps if 0 < s <= mark]
        if near and mark <= steps[-1]:
            kept.add(near[-1])
    if best is not None:
        kept.add(min(steps, key=lambda s: abs(s - best)))
    return kept


def read_state(
    folder: Path,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, Any]]:
    """(weights, optimizer tensors, averages by profile, plain numbers) of a checkpoint, checked against their hashes.

    Raises:
        CorruptModel: a file is missing or changed.
    """
    from kakusan.model_folder import EMA, WEIGHTS

    facts = read_facts(folder)
    averages: dict[str, dict[str, Tensor]] = {}
    for name, value in read_tensors(folder, EMA, facts).items():
        profile, key = name.split("/", 1)
        averages.setdefault(profile, {})[key] = value
    state = json.loads(verified(folder, STATE, facts).read_text(encoding="utf-8"))
    return read_tensors(folder, WEIGHTS, facts), read_tensors(folder, OPTIMIZER, facts), averages, state


def _named(run: RunFolder, pointer: str) -> Path:
    """The checkpoint that a pointer of a run names."""
    best = run.best()
    found = run.latest() if pointer == LATEST else None if best is None else run.checkpoint(best)
    if found is None:
        raise ValueError(
            f"{run.path / pointer} names no checkpoint; `best` is written by kakusan train --watch 6 or kakusan watch, "
            f"and {run.path} itself is the newest"
        )
    return found


def find_model(path: str | Path) -> Path:
    """The model folder that a path means: a run (its newest checkpoint), `RUN/best` or `RUN/latest` (the checkpoint
    named there), a checkpoint, or a model folder.

    Raises:
        ValueError: no such folder, or none of these.
    """
    folder = Path(path)
    if folder.name in (BEST, LATEST) and not folder.is_dir() and RunFolder(folder.parent).exists():
        return _named(RunFolder(folder.parent), folder.name)
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
