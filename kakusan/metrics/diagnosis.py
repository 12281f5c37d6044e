"""Is a bad sample the network's fault or the sampler's? What `kakusan doctor` concludes from its measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kakusan.train.held_out import LevelReport


@dataclass(frozen=True)
class Findings:
    """What the tests found; `verdict` says it in one sentence.

    Args:
        levels: one-step denoising with the averaged weights.
        raw_levels: with the weights as they were trained.
        distance: of samples of the exact denoiser to the nearest training picture (`distances`).
        spacing: of those pictures to each other.
        verdict: whose fault it is.
        healthy: whether nobody is at fault.
        picture: where samples of all three are drawn.
        members: training pictures that the exact denoiser knows.
    """

    levels: LevelReport
    raw_levels: LevelReport
    distance: float
    spacing: float
    verdict: str
    healthy: bool
    picture: Path
    members: int

    def text(self) -> str:
        """For people."""
        lines = ["one-step denoising: mean squared error of x0, beside the best guess without a network"]
        lines.append(f"  {'log-SNR':>8} {'floor':>10} {'averaged':>10} {'raw':>10}   error / floor")
        rows = zip(self.levels.log_snr, self.levels.floor, self.levels.x0_error, self.raw_levels.x0_error, strict=True)
        for log_snr, floor, error, raw in rows:
            lines.append(f"  {log_snr:8.1f} {floor:10.5f} {error:10.5f} {raw:10.5f}   {_ratio(error, floor):.2f}")
        lines += [
            f"sampler on the exact denoiser of {self.members} training pictures: {self.distance:.4f} from the nearest "
            "of them "
            f"(root mean square; they are {self.spacing:.4f} from each other)",
            f"picture: {self.picture}",
            f"verdict: {self.verdict}",
        ]
        return "\n".join(lines)


def distances(samples: Tensor, members: Tensor) -> tuple[float, float]:
    """Root mean square distance of samples to the nearest member, and of members to each other."""
    scale = members[0].numel() ** 0.5
    far = torch.cdist(samples.flatten(1), members.flatten(1)) / scale
    between = torch.cdist(members.flatten(1), members.flatten(1)) / scale
    # A picture and its copies count as one.
    between[between < 1e-6] = torch.inf
    nearest = between.min(1).values
    finite = nearest[nearest.isfinite()]
    return float(far.min(1).values.mean()), float(finite.mean()) if len(finite) else 1.0


def verdict(levels: LevelReport, raw: LevelReport, distance: float, spacing: float) -> tuple[str, bool]:
    """(whose fault it is in a sentence, whether nobody's).

    Args:
        levels: one-step denoising with the averaged weights.
        raw: with the weights as they were trained.
        distance: of samples of the exact denoiser to the training pictures (`distances`).
        spacing: of those to each other.
    """
    if not distance < 0.25 * spacing:
        return (
            "the sampler is at fault: with an exact denoiser it does not arrive at pictures; use more steps, "
            "another grid "
            "or another sampler",
            False,
        )
    if max(levels.floor) < 1e-12:
        return "there is nothing to learn: all training pictures are one colour", False
    ratios = [_ratio(error, floor) for error, floor in zip(levels.x0_error, levels.floor, strict=True)]
    # Where almost nothing or almost everything is noise the floor itself is as good as it gets.
    middle = ratios[1:-1]
    raw_middle = [_ratio(e, f) for e, f in zip(raw.x0_error, raw.floor, strict=True)][1:-1]
    if not all(r < 1e3 for r in ratios):
        return "the network is broken: its predictions are not finite or far beyond the data", False
    if min(raw_middle) < 0.7 * min(middle):
        return (
            "the averaged weights lag far behind the raw ones: the run is too short for its --ema; sample "
            "--weights raw",
            False,
        )
    bad = sum(r > 0.9 for r in middle)
    if bad >= len(middle) - 1:
        return (
            "the network is at fault: it knows little more than the mean of the data; train longer or check the data",
            False,
        )
    if bad:
        return (
            f"the sampler is fine; the network has learnt nothing in {bad} of {len(middle)} bands of noise: train "
            "longer, or "
            "choose times and weights that visit them",
            False,
        )
    return (
        "healthy: the sampler arrives and the network beats the trivial guess at every level; more quality needs "
        "training",
        True,
    )


def _ratio(error: float, floor: float) -> float:
    return error / max(floor, 1e-12)
