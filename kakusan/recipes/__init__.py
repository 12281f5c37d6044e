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
        # Few samples can be seen in four minutes: small batches and a high rate make the most of each.
        "optim": {"rate": 5e-3, "warmup": 80, "decay": 0.5},
        "run": {"minutes": 4.0, "batch": 32, "measurements": 6, "previews": 2, "checkpoints": 2, "spaced": 1},
    }


def small() -> Settings:
    """Pictures of 32 to 64 pixels on a laptop CPU: an hour for something to look at."""
    return {"model": {"width": 48}, "optim": {"rate": 1e-3}, "run": {"minutes": 60.0, "batch": 32}}


def flow() -> Settings:
    """Rectified flow: the straight path, velocity prediction, logit-normal times."""
    return {
        "model": {"schedule": "rectified", "parameterization": "velocity"},
        "objective": {"times": "logit-normal", "weighting": "flow-matching"},
    }


def edm() -> Settings:
    """Karras et al. 2022: EDM preconditioning, weights and noise levels."""
    return {
        "model": {"schedule": "karras", "parameterization": "edm"},
        "objective": {"times": "log-normal-sigma", "weighting": "edm"},
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
    "edm": edm,
    "ddpm": ddpm,
    "improved-ddpm": improved_ddpm,
    "score-vp": score_vp,
    "score-ve": score_ve,
    "score-sub-vp": score_sub_vp,
    "vdm": vdm,
}
