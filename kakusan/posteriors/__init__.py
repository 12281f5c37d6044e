"""Samples of p(x0 | y): restoration with a trained model and without retraining."""

from kakusan.operators import Measurement
from kakusan.posteriors.base import Posterior
from kakusan.posteriors.decoupled import DAPS, RePaint
from kakusan.posteriors.direct import Reverse
from kakusan.posteriors.gradient import DPS, MMPS, PiGDM
from kakusan.posteriors.particles import SMC
from kakusan.posteriors.spectral import DDNM, DDRM, DiffPIR

POSTERIORS: dict[str, Posterior] = {
    "dps": DPS(),
    "pigdm": PiGDM(),
    "ddnm": DDNM(),
    "ddrm": DDRM(),
    "diffpir": DiffPIR(),
    "daps": DAPS(),
    "mmps": MMPS(),
    "smc": SMC(),
    "repaint": RePaint(),
}

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "MMPS",
    "POSTERIORS",
    "SMC",
    "DiffPIR",
    "Measurement",
    "PiGDM",
    "Posterior",
    "RePaint",
    "Reverse",
]
