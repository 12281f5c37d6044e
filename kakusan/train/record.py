"""What a run says of itself in its model folders and in `env.json`."""

from __future__ import annotations

import dataclasses
import platform
from typing import TYPE_CHECKING, Any

import torch

from kakusan import __version__
from kakusan.model_folder import ModelFacts
from kakusan.train.estimate import duration

if TYPE_CHECKING:
    from kakusan.train.run import TrainingRun


def facts_of(run: TrainingRun) -> ModelFacts:
    """What the model folder says."""
    trainer = run.trainer
    elapsed = run.elapsed()
    return ModelFacts(
        run.spec,
        run.objective,
        {
            "steps": trainer.step,
            "samples": trainer.samples,
            "epochs": trainer.samples / len(run.training),
            "pictures": len(run.training),
            "held_out_pictures": len(run.held_out),
            "data": run.training.fingerprint,
            "source": run.config.data.source,
            "seconds": round(elapsed, 1),
            "config": dataclasses.asdict(run.config),
            "machine": environment_of(run),
            "figures": {
                "steps": trainer.step,
                "pictures": len(run.training),
                "pictures seen": trainer.samples,
                "time": duration(elapsed),
                "parameters": sum(p.numel() for p in run.model.parameters()),
            },
        },
        tuple(trainer.ema.profiles),
    )


def environment_of(run: TrainingRun) -> dict[str, Any]:
    """Versions and machine, for `env.json`."""
    return {
        "kakusan": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": str(run.device),
        "precision": run.precision.name,
        "runtime": dataclasses.asdict(run.facts_of_machine),
        "levers": dataclasses.asdict(run.levers),
    }
