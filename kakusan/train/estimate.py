"""What a run will take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """What a run will take, measured before its first step."""

    seconds_per_step: float
    steps: int
    parameters: int
    memory_bytes: int

    def text(self, batch: int) -> str:
        """One line for people."""
        seconds = self.seconds_per_step * self.steps
        return (
            f"{self.parameters / 1e6:.2f} M parameters; a step of {batch} takes {self.seconds_per_step:.3g} s "
            f"({batch / max(self.seconds_per_step, 1e-9):.0f} samples/s); {self.steps} steps: about "
            f"{duration(seconds)}; "
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
