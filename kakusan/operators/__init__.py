"""Linear degradations with adjoint, pseudo-inverse and singular values."""

from kakusan.operators.base import Operator
from kakusan.operators.fourier import Blur, CompressedSensing, motion
from kakusan.operators.matrix import Matrix
from kakusan.operators.measurement import Measurement
from kakusan.operators.pixels import Gray, Identity, Mask
from kakusan.operators.separable import Downsample, GaussianBlur, Separable

__all__ = [
    "Blur",
    "CompressedSensing",
    "Downsample",
    "GaussianBlur",
    "Gray",
    "Identity",
    "Mask",
    "Matrix",
    "Measurement",
    "Operator",
    "Separable",
    "motion",
]
