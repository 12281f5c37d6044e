"""What decides one picture of a sweep, and the models that sweeps over models need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kakusan import model_folder
from kakusan.model_folder import RAW
from kakusan.pipeline import Pipeline, load
from kakusan.request import Each, SampleRequest
from kakusan.run_folder import read_state
from kakusan.sweeping.ways import FromNoise, Way
from kakusan.train.posthoc import Snapshots, rebuild


@dataclass(frozen=True)
class ModelChoice:
    """Which weights.

    Args:
        folder: of a checkpoint or model.
        weights: an EMA profile, or raw; the default profile when None.
        ema_width: of an average that is rebuilt from the run's snapshots, in place of `weights`.
    """

    folder: Path
    weights: str | None = None
    ema_width: float | None = None

    def open(self, device: torch.device) -> Pipeline:
        """The model.

        Raises:
            ValueError: no such weights, or a width of a model that is not a checkpoint of a run with snapshots.
        """
        if self.ema_width is None:
            return load(self.folder, weights=self.weights, device=device)
        _, _, averages, state = read_state(self.folder)
        snapshots = Snapshots(self.folder.parent.parent)
        updates = int(state["trainer"]["ema_updates"])
        rebuilt = rebuild(snapshots, [self.ema_width], updates=updates, averages=averages)[0]
        model, facts, _ = model_folder.read(self.folder, weights=RAW)
        with torch.no_grad():
            model.load_state_dict({**model.state_dict(), **rebuilt.tensors})
        name, told = f"ema width {self.ema_width:g}", model_folder.model_hash(self.folder)
        return Pipeline(model, facts, weights=name, path=self.folder, model_hash=told).to(device)

    def record(self) -> dict[str, Any]:
        """What identifies the weights, wherever the folder lies."""
        values: dict[str, Any] = {"model": model_folder.model_hash(self.folder), "weights": self.weights}
        return values if self.ema_width is None else {**values, "ema_width": self.ema_width}


@dataclass(frozen=True)
class Setup:
    """Everything that decides one picture.

    Args:
        model: its weights.
        request: for one sample.
        way: how the request is carried out.
    """

    model: ModelChoice
    request: SampleRequest
    way: Way = field(default_factory=FromNoise)

    def asking(self, **changes: Any) -> Setup:
        """The same with other values in the request."""
        return replace(self, request=replace(self.request, **changes))

    def together(self) -> Setup:
        """What must be equal for two pictures to be drawn in one batch."""
        request = self.request
        free: dict[str, Any] = {"seeds": (0,), "guidance_scale": 0.0, "rescale": 0.0, "batch": 1}
        for name in ("labels", "negative"):
            free[name] = None if getattr(request, name) is None else (0,)
        return Setup(self.model, replace(request, **free), self.way.alone())

    def record(self) -> dict[str, Any]:
        """Plain values."""
        request = self.request.record()
        del request["batch"]
        return {**self.model.record(), **request, **self.way.record()}


def joined(setups: Sequence[Setup]) -> Setup:
    """One setup for the samples of several, which are equal when `together`."""
    requests = [setup.request for setup in setups]

    def row(name: str) -> tuple[int, ...] | None:
        values = [getattr(request, name) for request in requests]
        return None if values[0] is None else tuple(value for each in values for value in each)

    request = replace(
        requests[0],
        seeds=tuple(request.seeds[0] for request in requests),
        labels=row("labels"),
        negative=row("negative"),
        # One number where all have it: guidance that is off for all is then not computed.
        guidance_scale=_common([request.guidance_scale for request in requests]),
        rescale=_common([request.rescale for request in requests]),
        batch=len(requests),
    )
    return Setup(setups[0].model, request, setups[0].way.together([setup.way for setup in setups]))


def _common(values: Sequence[Each]) -> Each:
    flat = tuple(float(value) for each in values for value in (each if isinstance(each, tuple) else (each,)))
    return flat[0] if len(set(flat)) == 1 else flat


def digest(values: Any) -> str:
    """Identity of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
