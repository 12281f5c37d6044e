"""Checkpoints of a CLIP's training: folders of a CLIP with all that going on needs beside its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kakusan.data.source import Pictures
from kakusan.encoders import folder as clip_folder
from kakusan.model_folder import EMA, WEIGHTS, CorruptModel, read_description, read_tensors, verified
from kakusan.run_folder import OPTIMIZER, STATE, RunFolder
from kakusan.train import keeping
from kakusan.train.clip import AVERAGED, ClipRun
from kakusan.train.clip_model import ClipSizes
from kakusan.train.signals import catch_signals

_LENGTH = ("minutes", "steps")


def to_the_end(
    run: ClipRun,
    out: Path,
    sizes: ClipSizes,
    pictures: tuple[Pictures, Pictures],
    *,
    config: str | None = None,
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Train in a folder, from where the same training was stopped there; returns whether it reached its end.

    What going on needs is kept after every measurement, and on the first SIGINT or SIGTERM.

    Args:
        run: new.
        out: the folder.
        sizes: of the CLIP.
        pictures: those trained on, and those held out.
        config: text that the folder keeps as `config.toml`, when given.
        threads: of the CPU; those of the training that goes on when None.
        say: takes lines for people.

    Raises:
        ValueError: a folder that holds something else or a training of other settings or data; numbers that stay not
            finite.
    """
    folder, data = RunFolder(out), " ".join(part.fingerprint for part in pictures)
    settings = {"how": {k: v for k, v in asdict(run.how).items() if k not in _LENGTH}, "sizes": asdict(sizes)}
    flat = {name: value for part in json.loads(json.dumps(settings)).values() for name, value in part.items()}
    newest = keeping.opened(folder, flat, data, "CLIP")
    with keeping.create(folder, flat, data, config):
        if newest is not None:
            _restore(run, newest, threads)
            say(f"continuing {out} from step {run.step}")
        asked: list[str] = []
        put_back = catch_signals(asked.append)
        try:
            ended = run.go_on(stopped=lambda: bool(asked), measured=lambda: _save(folder, run, pictures[0]))
        finally:
            put_back()
        if not ended:
            _save(folder, run, pictures[0])
            say(f"stopped by {asked[0]} at step {run.step}; the same command goes on")
    return ended


def _save(folder: RunFolder, run: ClipRun, pictures: Pictures) -> None:
    tensors, facts = run.state()
    state = json.dumps({**facts, "threads": torch.get_num_threads()}) + "\n"
    averages, record = run.ema.averages, {"steps": run.step, "seconds": run.seconds, "how": asdict(run.how)}

    def write(path: Path) -> None:
        clip_folder.save(path, run.clip, pictures.spec, record, averages, {OPTIMIZER: tensors}, {STATE: state})

    keeping.write_checkpoint(folder, run.step, write)


def _restore(run: ClipRun, folder: Path, threads: int | None) -> None:
    facts = read_description(folder, clip_folder.PART)
    state: dict[str, Any] = json.loads(verified(folder, STATE, facts).read_text(encoding="utf-8"))
    weights, averages = (read_tensors(folder, name, facts) for name in (WEIGHTS, EMA))
    try:
        run.clip.load_state_dict(weights)
        profiles = {AVERAGED: keeping.under(averages, f"{AVERAGED}/")}
        run.load_state(read_tensors(folder, OPTIMIZER, facts), state, profiles)
        # Sums depend on how they are shared out.
        torch.set_num_threads(threads or int(state["threads"]))
    except (KeyError, IndexError, TypeError, RuntimeError) as error:
        raise CorruptModel(f"{folder} does not fit this training: {error}") from None
