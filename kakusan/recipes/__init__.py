"""Named settings: functions that return what differs from the defaults, by section.

A recipe imports no torch, so that the command line can read it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Settings = dict[str, dict[str, Any]]


def demo() -> Settings:
    """The model of `make demo`: the embedded flowers at 32 x 32, in a few minutes on two cores."""
    return {
        "data": {"source": "flowers", "size": 32, "num": 6000},
        "model": {"width": 48, "multipliers": [1, 2, 2], "depth": 1, "patch": 2, "attention_levels": []},
        # Few samples can be seen in four minutes: Muon at a high rate and small batches make the most of each.
        "optim": {"optimizer": "muon", "rate": 1e-2, "warmup": 80, "decay": 0.5},
        "run": {"minutes": 4.0, "batch": 32, "measurements": 6, "previews": 2, "checkpoints": 2, "spaced": 1},
    }


def small() -> Settings:
    """Pictures of 32 to 64 pixels on a laptop CPU: an hour for something to look at."""
    return {
        "model": {"width": 48},
        "optim": {"optimizer": "muon", "rate": 5e-3},
        "run": {"minutes": 60.0, "batch": 32},
    }


def flow() -> Settings:
    """Rectified flow: the straight path, velocity prediction, logit-normal times."""
    return {
        "model": {"schedule": "rectified", "parameterization": "velocity"},
        "objective": {"times": "logit-normal", "weighting": "flow-matching"},
    }


def dit() -> Settings:
    """A diffusion transformer on the straight path (Peebles & Xie 2022; Ma et al. 2024, SiT)."""
    return {
        "model": {
            "backbone": "dit",
            "width": 256,
            "patch": 2,
            "schedule": "rectified",
            "parameterization": "velocity",
        },
        "objective": {"times": "logit-normal", "weighting": "flow-matching"},
        "optim": {"rate": 6e-4},
    }


def jit() -> Settings:
    """Li & He 2025: a transformer on large patches of pixels that predicts x0 itself, trained by the velocity loss."""
    return {
        "model": {
            "backbone": "dit",
            "width": 256,
            "patch": 4,
            "bottleneck": 32,
            "schedule": "rectified",
            "parameterization": "x0",
        },
        "objective": {"times": "logit-normal-noisy", "weighting": "flow-matching-bounded"},
        "optim": {"rate": 6e-4},
    }


def edm() -> Settings:
    """Karras et al. 2022: EDM preconditioning, weights and noise levels."""
    return {
        "model": {"schedule": "karras", "parameterization": "edm"},
        "objective": {"times": "log-normal-sigma", "weighting": "edm"},
    }


def edm2() -> Settings:
    """Karras et al. 2024: EDM on the magnitude-preserving U-Net, with a rate that falls as one over the root."""
    return {
        "model": {"backbone": "edm2", "schedule": "karras", "parameterization": "edm"},
        "objective": {"times": "log-normal-sigma", "weighting": "edm"},
        # Weights keep their size, so the rate is an angle: the paper's 0.01, flat first, then nothing else slows it.
        "optim": {"rate": 1e-2, "decay": 0.7, "rate_decay": "inverse-sqrt"},
    }


def ddpm() -> Settings:
    """Ho et al. 2020: the linear table of 1000 discrete steps, eps prediction, the simple loss."""
    return {
        "model": {"schedule": "linear", "parameterization": "eps"},
        "objective": {"times": "discrete", "stratified": False, "weighting": "simple"},
    }


def improved_ddpm() -> Settings:
    """Nichol & Dhariwal 2021: the squared-cosine table, learned variance, the hybrid loss."""
    return {
        "model": {"schedule": "squared-cosine", "parameterization": "eps", "variance": "learned"},
        "objective": {"times": "discrete", "stratified": False, "weighting": "simple", "loss": "hybrid"},
    }


def score_vp() -> Settings:
    """Song et al. 2021: the VP-SDE by denoising score matching."""
    return {
        "model": {"schedule": "vp", "parameterization": "eps"},
        "objective": {"weighting": "score-matching"},
    }


def score_ve() -> Settings:
    """Song et al. 2021: the VE-SDE by denoising score matching."""
    return {
        "model": {"schedule": "ve", "parameterization": "eps"},
        "objective": {"weighting": "score-matching"},
    }


def score_sub_vp() -> Settings:
    """Song et al. 2021: the sub-VP SDE by denoising score matching."""
    return {
        "model": {"schedule": "sub-vp", "parameterization": "eps"},
        "objective": {"weighting": "score-matching"},
    }


def vdm() -> Settings:
    """Kingma et al. 2021: a learned schedule, Fourier features, the variational bound."""
    return {
        "model": {"schedule": "learned", "parameterization": "eps", "fourier": True},
        "objective": {"loss": "variational"},
    }


RECIPES: dict[str, Callable[[], Settings]] = {
    "demo": demo,
    "small": small,
    "flow": flow,
    "dit": dit,
    "jit": jit,
    "edm": edm,
    "edm2": edm2,
    "ddpm": ddpm,
    "improved-ddpm": improved_ddpm,
    "score-vp": score_vp,
    "score-ve": score_ve,
    "score-sub-vp": score_sub_vp,
    "vdm": vdm,
}
