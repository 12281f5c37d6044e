"""What restoration with a model of latents has beside one of pixels."""

from __future__ import annotations

import math

from torch import Tensor

from kakusan.autoencoders.latents import LatentSpec
from kakusan.autoencoders.measured import decoded, fitted
from kakusan.data.spec import DataSpec
from kakusan.metrics.noise_level import likeliest_noise, noise_of_patches
from kakusan.operators import Identity, Mask, Measurement
from kakusan.pipeline import Pipeline
from kakusan.posteriors import DiffPIR, Posterior
from kakusan.request import SampleRequest
from kakusan.tasks.restore_problems import Problem

IN_LATENTS = "diffpir"
"""The method whose step can be taken among decoded pixels."""


def usual(problem: Problem, data: DataSpec) -> tuple[Problem, str]:
    """The problem with what is usual for such a model, and the method where none is asked for."""
    return (problem.of_latents(), IN_LATENTS) if isinstance(data, LatentSpec) else (problem, problem.posterior)


def as_seen(data: DataSpec, measurement: Measurement, method: Posterior) -> tuple[Measurement, list[str]]:
    """What was measured as the model sees it, and lines for people.

    Raises:
        ValueError: a method that knows latents only, and a measurement that says nothing of single latents.
    """
    if not isinstance(data, LatentSpec):
        return measurement, []
    seen = decoded(data, measurement)
    masked = _masked(measurement)
    total = math.prod(data.size)
    cells = (
        f"{seen.owned} of {total} latent cells hold known pixels only, and {seen.cells} are the same whatever is in "
        "the hole"
    )
    if isinstance(method, DiffPIR):
        said = "latents are decoded, brought to fit among pixels, and encoded again at every step"
        return seen, [f"{said}; {cells}" if masked else said]
    if not masked or not seen.cells:
        why = f"({cells})" if masked else "(what was measured is linear in pixels, not in latents)"
        raise ValueError(
            f"{type(method).__name__} works on latents and this measurement says nothing of them alone {why}; use "
            f"--posterior {IN_LATENTS}, which works through the autoencoder"
        )
    return seen, [f"{cells}: these are kept, and the known pixels are laid over the result"]


def in_pixels(data: DataSpec, z: Tensor, measurement: Measurement) -> Tensor:
    """Samples of the model as pictures in [-1, 1] and beyond, brought to what was measured where they were decoded.

    Known pixels of a mask are left to the problem, which lays them over the result.
    """
    if not isinstance(data, LatentSpec):
        return z
    x = data.decoded(z)
    return x if _masked(measurement) else fitted(x, measurement)


def _masked(measurement: Measurement) -> bool:
    return isinstance(measurement.operator, Mask) and not isinstance(measurement.operator, Identity)


def noise_in(y: Tensor, pipeline: Pipeline, request: SampleRequest) -> float:
    """The noise of a picture (1, C, *size): what the model finds the likeliest, or by its small squares alone where
    the model knows latents."""
    if isinstance(pipeline.data, LatentSpec):
        return noise_of_patches(y)
    denoiser, cond = pipeline.guided(request.part(slice(0, 1)))
    return likeliest_noise(denoiser, y.to(pipeline.device), cond)
