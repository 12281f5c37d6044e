"""Names on the command line and the objects they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from kakusan import schedules as s
from kakusan.bound_objectives import Hybrid, Variational
from kakusan.config import DataSettings, ModelSettings, ObjectiveSettings
from kakusan.couplings import Coupling, Independent, MinibatchTransport
from kakusan.data.spec import DataSpec
from kakusan.learned_schedule import LearnedSchedule
from kakusan.likelihood.decoders import Categorical
from kakusan.nn import (
    ConvNeXtBlocks,
    LinearAttention,
    ResidualBlocks,
    SoftmaxAttention,
)
from kakusan.objectives import (
    Absolute,
    Distance,
    EdmWeight,
    Elbo,
    FlowMatching,
    MinSnr,
    Objective,
    PseudoHuber,
    ScoreMatching,
    SigmoidWeight,
    Simple,
    SimpleV,
    SimpleX0,
    Squared,
    Weighting,
)
from kakusan.pairs import PAIRS, Brought, Pair
from kakusan.parameterizations import X0, Edm, Eps, Parameterization, Score, V, Velocity
from kakusan.schedule_tables import Tabulated
from kakusan.schedule_wrappers import Shifted, ZeroTerminalSnr
from kakusan.specs import suggestion
from kakusan.time_samplers import (
    Discrete,
    LogitNormal,
    LogNormalSigma,
    Stratified,
    TimeSampler,
    Uniform,
    UniformLogSnr,
)

T = TypeVar("T")

SCHEDULES: dict[str, s.NoiseSchedule] = {
    "cosine": s.Cosine(),
    "sigmoid": s.Sigmoid(),
    "vp": s.VariancePreserving(),
    "sub-vp": s.SubVariancePreserving(),
    "ve": s.VarianceExploding(),
    "karras": s.Karras(),
    "rectified": s.Rectified(),
    "linear": Tabulated.linear(),
    "scaled-linear": Tabulated.scaled_linear(),
    "squared-cosine": Tabulated.squared_cosine(),
    "zero-terminal-snr": ZeroTerminalSnr(Tabulated.scaled_linear()),
}
TIMES: dict[str, TimeSampler] = {
    "uniform": Uniform(),
    "log-snr": UniformLogSnr(),
    "logit-normal": LogitNormal(),
    "logit-normal-noisy": LogitNormal(mean=0.8, std=0.8),
    "log-normal-sigma": LogNormalSigma(),
    "discrete": Discrete(),
}
VARIANCES = {"fixed": False, "learned": True}
LOSSES = {"weighted": Objective, "hybrid": Hybrid, "variational": Variational}
LEARNED = "learned"
COUPLINGS: dict[str, Coupling] = {"independent": Independent(), "transport": MinibatchTransport()}
DISTANCES: dict[str, Distance] = {"squared": Squared(), "absolute": Absolute(), "pseudo-huber": PseudoHuber()}
BLOCKS = {"residual": ResidualBlocks(), "convnext": ConvNeXtBlocks()}
ATTENTION: dict[str, SoftmaxAttention | LinearAttention] = {"softmax": SoftmaxAttention(), "linear": LinearAttention()}


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
        "simple-x0": SimpleX0(),
        "flow-matching": FlowMatching(),
        "flow-matching-bounded": FlowMatching(most=400.0),
        "elbo": Elbo(),
        "score-matching": ScoreMatching(),
        "score-matching-likelihood": ScoreMatching(likelihood=True),
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


def build_schedule(settings: ModelSettings, spec: DataSpec | None = None) -> s.NoiseSchedule:
    """The schedule that the settings name; a learned one is new for every model and starts from its data."""
    if settings.schedule != LEARNED:
        inner = choose({LEARNED: s.Cosine(), **SCHEDULES}, settings.schedule, "schedule")
        return inner if settings.shift == 1.0 else Shifted(inner, settings.shift)
    if settings.shift != 1.0:
        raise ValueError("a learned schedule finds its own place; leave shift at 1")
    return LearnedSchedule() if spec is None else LearnedSchedule(high=Categorical.for_data(spec).start_log_snr(13.3))


def build_pair(data: DataSettings, channels: int | None = None) -> Pair | None:
    """How the picture to start from is made; None for a model that starts from noise alone.

    Args:
        data: the settings.
        channels: of the second pictures, where they come with the data.

    Raises:
        ValueError: an unknown pair, or settings that do not go together.
    """
    if data.pair is None:
        if data.pair_source is not None or data.pair_noise is not None:
            raise ValueError("pair_source and pair_noise are settings of a pair; set pair too, or leave them out")
        return None
    pair = choose(PAIRS, data.pair, "pair")
    if pair.brought != (data.pair_source is not None):
        raise ValueError(
            "pair = given needs the second pictures: name their folder by pair_source"
            if pair.brought
            else f"pair = {data.pair} is made from the pictures themselves; pair_source goes with pair = given"
        )
    if data.pair_noise is not None and not 0.0 <= data.pair_noise <= 1.0:
        raise ValueError(f"pair_noise lies between 0 and 1, got {data.pair_noise}")
    return Brought(depth=channels) if pair.brought and channels is not None else pair


def build_objective(settings: ObjectiveSettings, spec: DataSpec) -> Objective:
    """The objective that the settings name."""
    times = choose(TIMES, settings.times, "density of times")
    parts: dict[str, Any] = {
        "time_sampler": Stratified(times) if settings.stratified else times,
        "weighting": choose(weightings(spec.sigma_data), settings.weighting, "weighting"),
        "distance": choose(DISTANCES, settings.distance, "distance"),
        "coupling": choose(COUPLINGS, settings.coupling, "coupling"),
    }
    kind = choose(LOSSES, settings.loss, "loss")
    if kind is Variational:
        # The bound has its own weight, and only squared errors are its.
        parts = {**parts, "weighting": Elbo(), "distance": Squared(), "decoder": Categorical.for_data(spec)}
    return kind(**parts)
