"""Guidance: functions from a denoiser to a denoiser, so that they compose."""

from kakusan.guidance.auto import AutoGuidance, PerturbedAttention
from kakusan.guidance.base import Guidance, GuidedDenoiser, Wrapped
from kakusan.guidance.classifier import ClassifierGuidance, NoisyClassifier
from kakusan.guidance.classifier_free import ClassifierFree
from kakusan.guidance.corrected import FeynmanKac
from kakusan.guidance.guides import Around, ByClassifier, Conditioned, Guide, Weaker, WithoutAttention
from kakusan.guidance.rules import RULES, Linear, PlusPlus, Projected, Rule, ZeroStar
from kakusan.guidance.threshold import DynamicThresholding, StaticThresholding, Thresholding

__all__ = [
    "RULES",
    "Around",
    "AutoGuidance",
    "ByClassifier",
    "ClassifierFree",
    "ClassifierGuidance",
    "Conditioned",
    "DynamicThresholding",
    "FeynmanKac",
    "Guidance",
    "Guide",
    "GuidedDenoiser",
    "Linear",
    "NoisyClassifier",
    "PerturbedAttention",
    "PlusPlus",
    "Projected",
    "Rule",
    "StaticThresholding",
    "Thresholding",
    "Weaker",
    "WithoutAttention",
    "Wrapped",
    "ZeroStar",
]
