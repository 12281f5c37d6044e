"""Ways to state a likelihood, by the names that the command line has for them and their parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kakusan.choices import choose
from kakusan.data.spec import DataSpec
from kakusan.likelihood import (
    Beta,
    Bound,
    Categorical,
    Chain,
    Discrete,
    DiscretizedGaussian,
    Divergence,
    Exact,
    Flow,
    Hutchinson,
    Learned,
    Method,
    Posterior,
    TruncatedNormalNoise,
    UniformNoise,
)

DECODERS: dict[str, type[Discrete]] = {"categorical": Categorical, "gaussian": DiscretizedGaussian}
VARIANCES = {"small": Posterior(), "large": Beta(), "learned": Learned()}
DEQUANTISATIONS = {"truncated-normal": TruncatedNormalNoise(), "uniform": UniformNoise()}
DIVERGENCES: dict[str, Callable[[int], Divergence]] = {"exact": lambda probes: Exact(), "hutchinson": Hutchinson}


def _bound(spec: DataSpec, options: dict[str, Any]) -> Method:
    return Bound(choose(DECODERS, options["decoder"], "decoder").for_data(spec), options["draws"] or 16)


def _chain(spec: DataSpec, options: dict[str, Any]) -> Method:
    decoder = choose(DECODERS, options["decoder"], "decoder").for_data(spec)
    variance = choose(VARIANCES, options["variance"], "variance")
    return Chain(decoder, options["draws"] or 16, steps=options["steps"] or 1000, variance=variance)


def _flow(spec: DataSpec, options: dict[str, Any]) -> Method:
    noise = choose(DEQUANTISATIONS, options["dequantisation"], "dequantisation").for_data(spec)
    divergence = choose(DIVERGENCES, options["divergence"], "divergence")(options["probes"])
    return Flow(noise, divergence, options["steps"] or 64, options["draws"] or 1)


METHODS: dict[str, Callable[[DataSpec, dict[str, Any]], Method]] = {"bound": _bound, "discrete": _chain, "flow": _flow}
"""Each takes the facts of the data, and the options `decoder`, `draws`, `steps`, `variance`, `dequantisation`,
`divergence` and `probes`, of which it needs some; a name that does not exist raises ValueError."""
