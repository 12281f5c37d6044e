"""`kakusan train-classifier`: a classifier of noisy pictures, trained on a run's own data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from kakusan import runtime
from kakusan.nn.noisy_classifier import NoisyConvNet
from kakusan.pipeline import load
from kakusan.run_folder import CONFIG
from kakusan.train import classifier_folder
from kakusan.train.noisy_classifier import ClassifierTraining, Labelled, TrainedClassifier, train_noisy_classifier
from kakusan.train.reopen import reopen_parts

FOLDER = "classifier"


def train_classifier(
    run: Path,
    how: ClassifierTraining,
    *,
    width: int = 32,
    depth: int = 1,
    data: str | None = None,
    out: Path | None = None,
    threads: int | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Path:
    """Train and keep a classifier for the models of a run's data; returns its folder.

    Args:
        run: a run, checkpoint or model folder.
        how: how long, and how.
        width: of the network.
        depth: of the network.
        data: where the pictures are now, when they have moved.
        out: a new folder; one in the run's own when None.
        threads: of the CPU.
        device: auto, cpu, cuda.
        say: takes lines for people.

    Raises:
        ValueError: a place that is taken, or data without classes.
    """
    # Beside a single checkpoint, not in it, since its files are checked.
    beside = run / FOLDER if (run / CONFIG).is_file() else run.with_name(f"{run.name}-{FOLDER}")
    folder = out or beside
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is taken; name another folder with --out, nothing is overwritten")
    where = runtime.pick_device(device)
    runtime.tune(threads=threads, device=where)
    pipeline = load(run, device=where)
    pipeline.need_pixels("a classifier of noisy pictures")
    pictures, held_out = reopen_parts(pipeline, data)
    training = Labelled.of(pictures)
    # Layers draw their first weights from the global generator: borrow it and give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        network = NoisyConvNet.for_data(
            pipeline.data.channels,
            pipeline.data.size,
            len(pictures.spec.classes),
            sigma_data=pipeline.data.sigma_data,
            width=width,
            depth=depth,
        ).to(where)
    size = sum(p.numel() for p in network.parameters())
    length = f"{how.minutes:g} minutes" if how.steps is None else f"{how.steps} steps"
    say(f"{len(pictures)} pictures of {len(pictures.spec.classes)} classes, {size:,} parameters, {length}")
    apart = Labelled.of(held_out) if len(held_out) else None
    schedule = pipeline.model.denoiser.trained_schedule
    trained = train_noisy_classifier(network, training, apart, schedule, how=how, say=say)
    for line in _table(trained, len(pictures.spec.classes)):
        say(line)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"how": asdict(how), "source": str(pipeline.facts.training.get("source", "")), "model": pipeline.model_hash}
    classifier_folder.save(folder, trained, pipeline.data, facts)
    say(f"wrote {folder}; use it with: kakusan sample {run} --label {pictures.spec.classes[0]} --classifier {folder}")
    return folder


def _table(trained: TrainedClassifier, classes: int) -> list[str]:
    lines = [f"accuracy on {trained.measured_on} pictures by noise level (chance is {1.0 / classes:.2f}):"]
    lines += [
        f"  log-SNR {level.log_snr:+.0f}: {level.accuracy:.2f}, cross-entropy {level.cross_entropy:.2f}"
        for level in trained.levels
    ]
    lines.append(f"from step {trained.best} of {trained.steps}, the best of its measurements")
    return lines
