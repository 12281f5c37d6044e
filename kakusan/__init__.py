"""kakusan: train, explain and use diffusion models on your own data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kakusan.conditioning import ClassLabels as ClassLabels
    from kakusan.conditioning import Condition as Condition
    from kakusan.denoiser import Denoiser as Denoiser
    from kakusan.denoiser import Prediction as Prediction
    from kakusan.nn import UNet as UNet
    from kakusan.objectives import Objective as Objective
    from kakusan.pipeline import Pipeline as Pipeline
    from kakusan.pipeline import load as load
    from kakusan.samplers import sample as sample
    from kakusan.samplers import sample_iter as sample_iter
    from kakusan.train.trainer import Trainer as Trainer

# Names at the top level, imported when first used: `import kakusan` and `kakusan --help` stay fast.
_HOMES = {
    "ClassLabels": "kakusan.conditioning",
    "Condition": "kakusan.conditioning",
    "Denoiser": "kakusan.denoiser",
    "Objective": "kakusan.objectives",
    "Pipeline": "kakusan.pipeline",
    "Prediction": "kakusan.denoiser",
    "Trainer": "kakusan.train.trainer",
    "UNet": "kakusan.nn",
    "load": "kakusan.pipeline",
    "sample": "kakusan.samplers",
    "sample_iter": "kakusan.samplers",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    try:
        return importlib.import_module(f"kakusan.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"kakusan.{name}":
            raise
        raise AttributeError(f"module 'kakusan' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
