"""What a run will take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kakusan.train.pace import Pace


@dataclass(frozen=True)
class Estimate:
    """What a run will take, measured before its first step.

    Args:
        step: one step of the whole batch.
        steps: how many.
        parameters: of the model.
        at_once: samples that pass through the network at once in training.
        measuring: one measurement of the loss; None when there are none.
        measurements: how many.
        preview: one preview; None when there are none.
        previews: how many, with those at the start and at the end.
        watching: one point of watching distances; None when there are none.
        watches: how many.
        opening: seconds before the first of them, for networks that learn to judge.
        threads: of the CPU.
    """

    step: Pace
    steps: int
    parameters: int
    at_once: int
    measuring: Pace | None = None
    measurements: int = 0
    preview: Pace | None = None
    previews: int = 0
    watching: Pace | None = None
    watches: int = 0
    opening: float = 0.0
    threads: int = 1

    @property
    def seconds_per_step(self) -> float:
        """Seconds of one training step, without what is measured and drawn between steps."""
        return self.step.seconds

    @property
    def beside(self) -> float:
        """Seconds of all measurements, previews and points of watching."""
        parts = (
            (self.measuring, self.measurements),
            (self.preview, self.previews),
            (self.watching, self.watches),
        )
        return self.opening + sum(part.seconds * count for part, count in parts if part is not None)

    @property
    def seconds(self) -> float:
        """Seconds of the run; writing checkpoints comes on top."""
        return self.step.seconds * self.steps + self.beside

    @property
    def memory_bytes(self) -> int:
        """The most that training, measuring and drawing use."""
        return max(
            part.memory_bytes for part in (self.step, self.measuring, self.preview, self.watching) if part is not None
        )

    def text(self, batch: int) -> str:
        """One line for people."""
        cut = "" if self.at_once >= batch else f", {self.at_once} at once,"
        parts = [f"{self.steps} steps: about {duration(self.step.seconds * self.steps)}"]
        if self.measuring is not None:
            parts.append(f"{self.measurements} measurements: {duration(self.measuring.seconds * self.measurements)}")
        if self.preview is not None:
            parts.append(f"{self.previews} previews: {duration(self.preview.seconds * self.previews)}")
        if self.watching is not None and self.watches:
            watched = self.opening + self.watching.seconds * self.watches
            parts.append(f"{self.watches} times distances: {duration(watched)}")
        if len(parts) > 1:
            parts.append(f"in all {duration(self.seconds)}")
        return (
            f"{self.parameters / 1e6:.2f} M parameters; a step of {batch}{cut} takes {self.step.seconds:.3g} s "
            f"({batch / max(self.step.seconds, 1e-9):.0f} samples/s); {', '.join(parts)}; "
            f"memory about {self.memory_bytes / 2**30:.1f} GiB"
        )


def duration(seconds: float) -> str:
    """A duration as people say it."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
