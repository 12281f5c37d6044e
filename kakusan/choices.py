"""Names on the command line and the objects they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from kakusan import schedules as s
from kakusan.conditioning import ClassLabels
from kakusan.config import ModelSettings, ObjectiveSettings, TrainConfig
from kakusan.data.spec import DataSpec
from kakusan.denoiser import Denoiser
from kakusan.model_folder import Model
from kakusan.nn import ConvNeXtBlocks, LinearAttention, Patched, ResidualBlocks, SoftmaxAttention, UNet
from kakusan.objectives import (
    Absolute,
    Distance,
    EdmWeight,
    Elbo,
    FlowMatching,
    MinSnr,
    Objective,
    PseudoHuber,
    SigmoidWeight,
    Simple,
    SimpleV,
    Squared,
    Weighting,
)
from kakusan.parameterizations import X0, Edm, Eps, Parameterization, Score, V, Velocity
from kakusan.schedule_wrappers import Shifted, ZeroTerminalSnr
from kakusan.specs import suggestion
from kakusan.time_samplers import LogitNormal, LogNormalSigma, Stratified, TimeSampler, Uniform

T = TypeVar("T")

SCHEDULES: dict[str, s.NoiseSchedule] = {
    "cosine": s.Cosine(),
    "sigmoid": s.Sigmoid(),
    "vp": s.VariancePreserving(),
    "sub-vp": s.SubVariancePreserving(),
    "ve": s.VarianceExploding(),
    "karras": s.Karras(),
    "rectified": s.Rectified(),
    "linear": s.Tabulated.linear(),
    "scaled-linear": s.Tabulated.scaled_linear(),
    "squared-cosine": s.Tabulated.squared_cosine(),
    "zero-terminal-snr": ZeroTerminalSnr(s.Tabulated.scaled_linear()),
}
TIMES: dict[str, TimeSampler] = {
    "uniform": Uniform(),
    "logit-normal": LogitNormal(),
    "log-normal-sigma": LogNormalSigma(),
}
DISTANCES: dict[str, Distance] = {"squared": Squared(), "absolute": Absolute(), "pseudo-huber": PseudoHuber()}
BLOCKS = {"residual": ResidualBlocks(), "convnext": ConvNeXtBlocks()}
ATTENTION = {"softmax": SoftmaxAttention(), "linear": LinearAttention()}


def parameterizations(sigma_data: float) -> dict[str, Parameterization]:
    """Prediction types by name."""
    return {
        "x0": X0(),
        "eps": Eps(),
        "v": V(),
        "velocity": Velocity(),
        "score": Score(),
        "edm": Edm(sigma_data=sigma_data),
    }


def weightings(sigma_data: float) -> dict[str, Weighting]:
    """Loss weights by name."""
    return {
        "simple": Simple(),
        "simple-v": SimpleV(),
        "flow-matching": FlowMatching(),
        "elbo": Elbo(),
        "sigmoid": SigmoidWeight(),
        "min-snr": MinSnr(),
        "edm": EdmWeight(sigma_data=sigma_data),
    }


def choose(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of that name.

    Raises:
        ValueError: no such name, with a suggestion.
    """
    if name not in table:
        raise ValueError(f"no {what} {name!r}{suggestion(name, list(table))}; there are {', '.join(table)}")
    return table[name]


def build_schedule(settings: ModelSettings) -> s.NoiseSchedule:
    """The schedule that the settings name."""
    inner = choose(SCHEDULES, settings.schedule, "schedule")
    return inner if settings.shift == 1.0 else Shifted(inner, settings.shift)


def build_model(settings: ModelSettings, spec: DataSpec, *, condition_width: int | None = None) -> Model:
    """A fresh model for these data."""
    conditional = settings.conditional and bool(spec.classes)
    width = (condition_width or 2 * settings.width) if conditional else 0
    derived: dict[str, Any] = {"multipliers": settings.multipliers} if settings.multipliers else {}
    if settings.attention_levels is not None:
        derived["attention_levels"] = settings.attention_levels
    patch = settings.patch
    backbone: nn.Module = UNet.for_data(
        spec.channels * patch ** len(spec.size),
        [-(-side // patch) for side in spec.size],
        width=settings.width,
        condition_width=width,
        depth=settings.depth,
        blocks=choose(BLOCKS, settings.blocks, "kind of block"),
        attention=choose(ATTENTION, settings.attention, "kind of attention"),
        dropout=settings.dropout,
        **derived,
    )
    if patch > 1:
        backbone = Patched(backbone=backbone, patch=patch)
    denoiser = Denoiser(
        backbone,
        build_schedule(settings),
        choose(parameterizations(spec.sigma_data), settings.parameterization, "parameterization"),
        sigma_data=spec.sigma_data,
    )
    conditioner = (
        ClassLabels(classes=spec.classes, width=width, dropout=settings.condition_dropout) if conditional else None
    )
    return Model(denoiser, conditioner)


def build_objective(settings: ObjectiveSettings, spec: DataSpec) -> Objective:
    """The objective that the settings name."""
    times = choose(TIMES, settings.times, "density of times")
    return Objective(
        Stratified(times) if settings.stratified else times,
        choose(weightings(spec.sigma_data), settings.weighting, "weighting"),
        choose(DISTANCES, settings.distance, "distance"),
    )


def check(config: TrainConfig) -> None:
    """Refuse names that do not exist before anything slow begins."""
    build_schedule(config.model)
    choose(parameterizations(0.5), config.model.parameterization, "parameterization")
    choose(weightings(0.5), config.objective.weighting, "weighting")
    choose(TIMES, config.objective.times, "density of times")
    choose(DISTANCES, config.objective.distance, "distance")
    choose(BLOCKS, config.model.blocks, "kind of block")
    choose(ATTENTION, config.model.attention, "kind of attention")
