"""Checkpoints of an autoencoder's training: model folders with all that going on needs beside the weights."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kakusan.autoencoders import folder as folders
from kakusan.autoencoders.base import MEAN, STD, Autoencoder
from kakusan.autoencoders.losses import Bench
from kakusan.autoencoders.perceptual import Features
from kakusan.data.source import Pictures
from kakusan.model_folder import EMA, WEIGHTS, CorruptModel, read_description, read_tensors, verified
from kakusan.run_folder import OPTIMIZER, STATE, RunFolder
from kakusan.train import keeping
from kakusan.train.keeping import under
from kakusan.train.trainer import Trainer

_OWN = "autoencoder."


def opened(run: RunFolder, settings: Mapping[str, Any], data: str) -> dict[str, Any] | None:
    """What a folder says of the run that goes on in it; None for a place where one begins.

    Raises:
        ValueError: the place holds something else, or a run of other settings or data.
        CorruptModel: a run that has lost its checkpoints.
    """
    newest = keeping.opened(run, settings, data, "autoencoder")
    if newest is None:
        return None
    state: dict[str, Any] = json.loads(verified_text(newest))
    return state


def verified_text(folder: Path) -> str:
    """`state.json` of a checkpoint, checked against its hash."""
    return verified(folder, STATE, _facts(folder)).read_text(encoding="utf-8")


def _facts(folder: Path) -> dict[str, Any]:
    return read_description(folder, folders.PART)


def save(
    run: RunFolder,
    trainer: Trainer,
    bench: Bench,
    features: Features | None,
    pictures: Pictures,
    record: Mapping[str, Any],
    measured: int,
) -> Path:
    """Write the checkpoint of this step, whole or not at all, name it in `latest` and remove the older ones.

    Args:
        features: of the perceptual part.
        pictures: the training set, for the latents' mean and deviation.
        record: for `model.json`.
        measured: pictures that these are measured on, at most.

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
    said = {**record, "latents_measured_on": seen, "profile": profile}
    text = json.dumps(state, indent=1) + "\n"

    def write(folder: Path) -> None:
        folders.save(folder, autoencoder, pictures.spec, said, {profile: averages}, {OPTIMIZER: extra}, {STATE: text})

    return keeping.write_checkpoint(run, trainer.step, write)


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
        bench.load_state_dict({**{_OWN + n: v for n, v in weights.items()}, **under(extra, "module/")})
        own = {_OWN + n: v for n, v in under(averages, f"{profile}/").items()}
        trainer.load_state(under(extra, "optimizer/"), state["trainer"], {profile: {**own, **under(extra, "ema/")}})
        return float(state["elapsed"])
    except (KeyError, IndexError, TypeError, RuntimeError) as error:
        raise CorruptModel(f"{folder} does not fit this run: {error}") from None


def features(run: RunFolder) -> dict[str, Tensor]:
    """The features of the perceptual part that the newest checkpoint holds."""
    folder = run.latest()
    assert folder is not None
    return under(read_tensors(folder, OPTIMIZER, _facts(folder)), "features/")


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
