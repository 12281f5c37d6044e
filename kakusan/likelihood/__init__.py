"""Likelihood of a model: variational bounds, the probability flow, decoders, dequantisation and records."""

from kakusan.likelihood.bound import BoundTerms, prior_divergence, variational_bound
from kakusan.likelihood.control import Control
from kakusan.likelihood.decoders import Categorical, Decoder, Density, Discrete, DiscretizedGaussian
from kakusan.likelihood.dequantise import Dequantisation, TruncatedNormalNoise, UniformNoise, dequantised_log_prob
from kakusan.likelihood.divergence import Divergence, Exact, Hutchinson
from kakusan.likelihood.flow import flow_log_prob, flow_with_error
from kakusan.likelihood.methods import Bound, Chain, Flow, Method
from kakusan.likelihood.records import LikelihoodRecord
from kakusan.likelihood.steps import Beta, Learned, Posterior, ReverseVariance, step_bound, step_table

__all__ = [
    "Beta",
    "Bound",
    "BoundTerms",
    "Categorical",
    "Chain",
    "Control",
    "Decoder",
    "Density",
    "Dequantisation",
    "Discrete",
    "DiscretizedGaussian",
    "Divergence",
    "Exact",
    "Flow",
    "Hutchinson",
    "Learned",
    "LikelihoodRecord",
    "Method",
    "Posterior",
    "ReverseVariance",
    "TruncatedNormalNoise",
    "UniformNoise",
    "dequantised_log_prob",
    "flow_log_prob",
    "flow_with_error",
    "prior_divergence",
    "step_bound",
    "step_table",
    "variational_bound",
]
