"""Samplers: frozen dataclasses that make one step, and the loop they share."""

from kakusan.samplers.adaptive import Adaptive
from kakusan.samplers.ancestral import DDIM, DDPM, Euler
from kakusan.samplers.base import Sampler, State, Step, sample, sample_iter
from kakusan.samplers.heun import Heun
from kakusan.samplers.langevin import NoiseScale, NormRatio, PredictorCorrector
from kakusan.samplers.multistep import DEIS, IPNDM, DPMSolverPP, UniPC
from kakusan.samplers.sde import SEEDS, EulerMaruyama

SAMPLERS = {
    "ddim": DDIM(),
    "ddpm": DDPM(),
    "euler": Euler(),
    "heun": Heun(),
    "heun-churn": Heun(churn=40.0, churn_min=0.05, churn_max=50.0, inflation=1.003),
    "dpmpp-1": DPMSolverPP(order=1),
    "dpmpp-2m": DPMSolverPP(order=2),
    "dpmpp-3m": DPMSolverPP(order=3),
    "dpmpp-2m-sde": DPMSolverPP(order=2, sde=True),
    "dpmpp-3m-sde": DPMSolverPP(order=3, sde=True),
    "unipc-2": UniPC(order=2),
    "unipc-3": UniPC(order=3),
    "ipndm": IPNDM(order=4),
    "deis": DEIS(order=3),
    "adaptive": Adaptive(),
    "euler-maruyama": EulerMaruyama(),
    "seeds-2": SEEDS(),
    "pc": PredictorCorrector(),
}

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "IPNDM",
    "SAMPLERS",
    "SEEDS",
    "Adaptive",
    "DPMSolverPP",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "NoiseScale",
    "NormRatio",
    "PredictorCorrector",
    "Sampler",
    "State",
    "Step",
    "UniPC",
    "sample",
    "sample_iter",
]
