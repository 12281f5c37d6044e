"""What trainings of other networks than a diffusion model share: a folder that holds one, and its checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from kakusan.files import sync_folder, unfinished, write_text
from kakusan.model_folder import CorruptModel
from kakusan.run_folder import CONFIG, LATEST, LOCK, SETTINGS, RunFolder


def opened(run: RunFolder, settings: Mapping[str, Any], data: str, what: str) -> Path | None:
    """The checkpoint that a training goes on from; None for a place where one begins.

    Args:
        run: the folder.
        settings: what cannot change.
        data: the fingerprint of the data.
        what: is trained, as in "autoencoder".

    Raises:
        ValueError: the place holds something else, or a training of other settings or data.
        CorruptModel: a training that has lost its checkpoints.
    """
    path = run.path / SETTINGS
    if not path.is_file():
        if run.path.exists() and not run.path.is_dir():
            raise ValueError(f"{run.path} is a file; --out names the folder of a run")
        if run.path.is_dir() and set(run.path.iterdir()) - {run.path / LOCK, *unfinished(run.path)}:
            raise ValueError(
                f"{run.path} is taken: it is not empty and holds no {what}'s training to go on with; choose another "
                "--out, nothing is overwritten"
            )
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        old, fingerprint = dict(said["settings"]), str(said["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptModel(f"{path} is damaged: {error}") from None
    different = sorted(name for name in {*old, *settings} if old.get(name) != settings.get(name))
    if different:
        raise ValueError(
            f"the training in {run.path} has other settings ({', '.join(different)}); give the same ones to go on, or "
            "choose another --out"
        )
    if fingerprint != data:
        raise ValueError(
            f"the data are not those that {run.path} was trained on; bring them back or choose another --out"
        )
    return run.latest()


def create(run: RunFolder, settings: Mapping[str, Any], data: str, config: str | None = None) -> IO[str]:
    """Make the folder, or clean one after a kill; returns the lock, which holds while it is open.

    Args:
        run: the folder.
        settings: what cannot change.
        data: the fingerprint of the data.
        config: content of `config.toml`, the settings as they were given.

    Raises:
        ValueError: another process is training here.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    lock = run.lock()
    try:
        said = {"settings": dict(settings), "data": data}
        write_text(run.path / SETTINGS, json.dumps(said, indent=1) + "\n")
        if config is not None:
            write_text(run.path / CONFIG, config)
        run.checkpoints.mkdir(exist_ok=True)
        for leftover in run.checkpoints.glob(".part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    except BaseException:
        lock.close()
        raise
    return lock


def write_checkpoint(run: RunFolder, step: int, write: Callable[[Path], object]) -> Path:
    """Write the checkpoint of a step, whole or not at all, name it in `latest` and remove the older ones.

    Args:
        run: the folder.
        step: of the training.
        write: fills an empty folder.

    Raises:
        ValueError: the state is not finite, or the disk is full; the checkpoint before stays as it is.
    """
    target = run.checkpoint(step)
    temporary = run.checkpoints / f".part-{target.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write(temporary)
        for file in temporary.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        sync_folder(run.checkpoints)
        write_text(run.path / LATEST, target.name + "\n")
    except OSError as error:
        raise ValueError(
            f"the checkpoint of step {step} could not be written to {run.checkpoints}: "
            f"{error.strerror or error}; free some space and start the same command again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    run.thin(set(), newest=1)
    return target


def forget(run: RunFolder) -> None:
    """Remove what going on would need, once what was trained stands in the folder itself."""
    for name in (SETTINGS, LATEST, LOCK):
        (run.path / name).unlink(missing_ok=True)
    shutil.rmtree(run.checkpoints, ignore_errors=True)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
