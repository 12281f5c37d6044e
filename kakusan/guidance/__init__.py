"""Guidance: functions from a denoiser to a denoiser."""

from kakusan.guidance.classifier_free import ClassifierFree, GuidedDenoiser

__all__ = ["ClassifierFree", "GuidedDenoiser"]
