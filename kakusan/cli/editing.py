"""Options that the verbs which edit pictures share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kakusan.cli.guidance_options import GuidanceOptions
from kakusan.config import MaybeText


@dataclass(frozen=True)
class ModelOptions:
    """The model, its steps and its guidance.

    Args:
        steps: steps from noise to picture.
        grid: spacing of the steps (karras, log-snr, uniform, quadratic).
        seed: of the first picture.
        batch: pictures computed at once.
        weights: an EMA profile of the run, or raw.
        device: auto, cpu, cuda.
    """

    guidance: GuidanceOptions = field(default_factory=GuidanceOptions)
    steps: int = 20
    grid: str = "karras"
    seed: int = 0
    batch: int = 64
    weights: MaybeText = None
    device: str = "auto"

    def arguments(self, run: Path) -> dict[str, Any]:
        """Keyword arguments that the tasks share."""
        return {
            "num_steps": self.steps,
            "grid": self.grid,
            "seed": self.seed,
            "batch": self.batch,
            "weights": self.weights,
            "device": self.device,
            **self.guidance.arguments(run),
        }
