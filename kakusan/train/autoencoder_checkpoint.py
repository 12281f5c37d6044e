"""Checkpoints of an autoencoder's training: model folders with all that going on needs beside the weights."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from kakusan.autoencoders import folder as folders
from kakusan.autoencoders.base import MEAN, STD, Autoencoder
from kakusan.autoencoders.losses import Bench
from kakusan.autoencoders.perceptual import Features
from kakusan.data.source import Pictures
from kakusan.files import sync_folder, unfinished, write_text
from kakusan.model_folder import EMA, WEIGHTS, CorruptModel, read_description, read_tensors, verified
from kakusan.run_folder import LATEST, LOCK, OPTIMIZER, STATE, RunFolder
from kakusan.train.trainer import Trainer

SETTINGS = "settings.json"
_OWN = "autoencoder."


def opened(run: RunFolder, settings: Mapping[str, Any], data: str) -> dict[str, Any] | None:
    """What a folder says of the run that goes on in it; None for a place where one begins.

    Raises:
        ValueError: the place holds something else, or a run of other settings or data.
        CorruptModel: a run that has lost its checkpoints.
    """
    path = run.path / SETTINGS
    if not path.is_file():
        if run.path.exists() and not run.path.is_dir():
            raise ValueError(f"{run.path} is a file; --out names the folder of a run")
        if run.path.is_dir() and set(run.path.iterdir()) - {run.path / LOCK, *unfinished(run.path)}:
            raise ValueError(
                f"{run.path} is not empty and holds no autoencoder's training; choose another --out, nothing is "
                "overwritten"
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
    newest = run.latest()
    if newest is None:
        return None
    state: dict[str, Any] = json.loads(verified_text(newest))
    return state


def verified_text(folder: Path) -> str:
    """`state.json` of a checkpoint, checked against its hash."""
    return verified(folder, STATE, _facts(folder)).read_text(encoding="utf-8")


def _facts(folder: Path) -> dict[str, Any]:
    return read_description(folder, folders.PART)


def create(run: RunFolder, settings: Mapping[str, Any], pictures: Pictures) -> IO[str]:
    """Make the folder, or clean one after a kill; returns the lock, which holds while it is open.

    Raises:
        ValueError: another process is training here.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    lock = run.lock()
    try:
        said = {"settings": dict(settings), "data": pictures.fingerprint}
        write_text(run.path / SETTINGS, json.dumps(said, indent=1) + "\n")
        run.checkpoints.mkdir(exist_ok=True)
        for leftover in run.checkpoints.glob(".part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    except BaseException:
        lock.close()
        raise
    return lock


def save(
    run: RunFolder,
    trainer: Trainer,
    bench: Bench,
    features: Features | None,
    pictures: Pictures,
    record: Mapping[str, Any],
    measured: int | None,
) -> Path:
    """Write the checkpoint of this step, whole or not at all, name it in `latest` and remove the older ones.

    Args:
        features: of the perceptual part.
        pictures: the training set, for the latents' mean and deviation.
        record: for `model.json`.
        measured: pictures that these are measured on; all when None.

    Raises:
        ValueError: the state is not finite, or the disk is full; the checkpoint before stays as it is.
    """
    autoencoder, (profile, average) = bench.autoencoder, next(iter(trainer.ema.averages.items()))
    with averaged_with(bench, average):
        mean, std = measured_latents(autoencoder, pictures, most=measured)
    # Latents of other weights have another mean: these belong to the average, the buffers to the weights as they are.
    seen = measured_latents_count(pictures, measured)
    averages = {name.removeprefix(_OWN): value for name, value in average.items() if name.startswith(_OWN)}
    averages |= {MEAN: mean, STD: std}
    measured_latents(autoencoder, pictures, most=measured)
    tensors, facts = trainer.state()
    extra = {f"optimizer/{name}": value for name, value in tensors.items()}
    own = {name for name in bench.state_dict() if name.startswith(_OWN)}
    extra |= {f"module/{name}": value for name, value in bench.state_dict().items() if name not in own}
    extra |= {f"ema/{name}": value for name, value in average.items() if not name.startswith(_OWN)}
    if features is not None:
        extra |= {f"features/{name}": value for name, value in features.state_dict().items()}
    state = {"trainer": facts, "elapsed": record["seconds"], "threads": record["threads"]}
    target = run.checkpoint(trainer.step)
    temporary = run.checkpoints / f".part-{target.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        said = {**record, "latents_measured_on": seen, "profile": profile}
        text = json.dumps(state, indent=1) + "\n"
        folders.save(
            temporary, autoencoder, pictures.spec, said, {profile: averages}, {OPTIMIZER: extra}, {STATE: text}
        )
        for file in temporary.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        sync_folder(run.checkpoints)
        write_text(run.path / LATEST, target.name + "\n")
    except OSError as error:
        raise ValueError(
            f"the checkpoint of step {trainer.step} could not be written to {run.checkpoints}: "
            f"{error.strerror or error}; free some space and start the same command again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    run.thin(set(), newest=1)
    return target


def restore(run: RunFolder, trainer: Trainer, bench: Bench) -> float:
    """Bring a trainer to the newest checkpoint; returns the seconds of training so far.

    Raises:
        CorruptModel: damaged files, or a checkpoint of another network.
    """
    folder = run.latest()
    assert folder is not None
    facts = _facts(folder)
    state = json.loads(verified_text(folder))
    weights, averages = read_tensors(folder, WEIGHTS, facts), read_tensors(folder, EMA, facts)
    extra = read_tensors(folder, OPTIMIZER, facts)
    profile = next(iter(trainer.ema.averages))
    try:
        bench.load_state_dict({**{_OWN + n: v for n, v in weights.items()}, **_under(extra, "module/")})
        own = {_OWN + n: v for n, v in _under(averages, f"{profile}/").items()}
        trainer.load_state(_under(extra, "optimizer/"), state["trainer"], {profile: {**own, **_under(extra, "ema/")}})
        return float(state["elapsed"])
    except (KeyError, IndexError, TypeError, RuntimeError) as error:
        raise CorruptModel(f"{folder} does not fit this run: {error}") from None


def features(run: RunFolder) -> dict[str, Tensor]:
    """The features of the perceptual part that the newest checkpoint holds."""
    folder = run.latest()
    assert folder is not None
    return _under(read_tensors(folder, OPTIMIZER, _facts(folder)), "features/")


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


@contextlib.contextmanager
def averaged_with(module: nn.Module, average: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which a module has averaged parameters and is ready to be used."""
    live = dict(module.named_parameters())
    kept = {name: value.detach().clone() for name, value in live.items()}
    was = module.training
    try:
        with torch.no_grad():
            for name, value in live.items():
                value.copy_(average[name])
        module.eval()
        yield
    finally:
        with torch.no_grad():
            for name, value in live.items():
                value.copy_(kept[name])
        module.train(was)


def measured_latents_count(pictures: Pictures, most: int | None) -> int:
    """How many pictures a measurement looks at."""
    return len(pictures) if most is None else min(most, len(pictures))


def measured_latents(
    autoencoder: Autoencoder, pictures: Pictures, *, most: int | None = None, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Measure and store mean and deviation of the latents over a training set, mirrored where training mirrors.

    Args:
        autoencoder: with the weights to measure.
        pictures: the training set.
        most: pictures at most, spread evenly; all when None.
        batch: at once.
    """
    count = measured_latents_count(pictures, most)
    rows = np.linspace(0, len(pictures) - 1, count).round().astype(np.int64)

    def batches() -> Iterator[Tensor]:
        for start in range(0, count, batch):
            x = pictures.spec.to_model(pictures.read(rows[start : start + batch]))
            yield x
            if pictures.spec.flip:
                yield x.flip(-1)

    return autoencoder.measure_latents(batches)
