"""deepinv's own DPS, DiffPIR and DDRM on a network and an operator of ours, and floors that know no pictures.

deepinv runs where it is installed; without it the benchmark says so and goes on. It works on pictures in [0, 1].
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.operators import Downsample, Measurement
from kakusan.samplers.base import level_at_log_snr

Solve = Callable[[BaseDenoiser, Condition | None, Measurement, int], Tensor]


def deepinv() -> Any | None:
    """The library, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("deepinv")
    except ImportError:
        return None


def _network(library: Any, denoiser: BaseDenoiser, cond: Condition | None) -> Any:
    class Network(library.models.Denoiser):  # type: ignore[misc, name-defined]
        """Our denoiser, as deepinv calls one: pictures in [0, 1] with noise of a standard deviation."""

        def forward(self, x: Tensor, sigma: Any, *arguments: Any, **options: Any) -> Tensor:
            noise = max(2.0 * float(torch.as_tensor(sigma).flatten()[0]), 1e-3)
            level = level_at_log_snr(denoiser.schedule, -2.0 * float(np.log(noise)), x)
            x0 = denoiser((2.0 * x.float() - 1.0) * level.alpha, level, cond).x0
            return (x0 + 1.0) / 2.0

    return Network()


def _physics(library: Any, measurement: Measurement) -> Any:
    operator = measurement.operator

    class Physics(library.physics.DecomposablePhysics):  # type: ignore[misc, name-defined]
        """Our operator; what deepinv derives from its singular values is left to deepinv, but for the sizes."""

        def __init__(self) -> None:
            noise = library.physics.GaussianNoise(sigma=measurement.noise_std / 2.0)
            super().__init__(noise_model=noise, img_size=operator.shape)
            like = torch.zeros(1, *operator.shape)
            self.mask = operator.singular(like).expand(1, *operator.shape).clone()

        def A(self, x: Tensor, **options: Any) -> Tensor:
            return operator(x.float())

        def A_adjoint(self, y: Tensor, **options: Any) -> Tensor:
            return operator.adjoint(y.float())

        def A_dagger(self, y: Tensor, **options: Any) -> Tensor:
            return operator.pinv(y.float())

        def prox_l2(self, z: Tensor, y: Tensor, gamma: Any, **options: Any) -> Tensor:
            return Measurement(operator, y.float()).towards(z.float(), 1.0 / float(gamma))

        def U_adjoint(self, y: Tensor, **options: Any) -> Tensor:
            return operator.place(y.float()) * operator.seen(y)

        def V(self, z: Tensor, **options: Any) -> Tensor:
            return operator.unrotate(z.float())

        def V_adjoint(self, x: Tensor, **options: Any) -> Tensor:
            return operator.rotate(x.float())

    return Physics()


def _units(measurement: Measurement) -> Tensor:
    """y of pictures in [0, 1]."""
    operator = measurement.operator
    return (measurement.y + operator(torch.ones(1, *operator.shape))) / 2.0


def their_dps(library: Any, *, weight: float = 1.0) -> Solve:
    """Forward and backward passes are counted as one call each."""

    def solve(denoiser: BaseDenoiser, cond: Condition | None, measurement: Measurement, calls: int) -> Tensor:
        network = _network(library, denoiser, cond)
        method = library.sampling.DPS(network, num_steps=max(2, calls // 2), weight=weight)
        return _back(method(_units(measurement), _physics(library, measurement)))

    return solve


def their_diffpir(library: Any, *, strength: float = 7.0) -> Solve:
    """One call a step."""

    def solve(denoiser: BaseDenoiser, cond: Condition | None, measurement: Measurement, calls: int) -> Tensor:
        network = _network(library, denoiser, cond)
        fidelity = library.optim.data_fidelity.L2()
        sigma = measurement.noise_std / 2.0
        method = library.sampling.DiffPIR(network, fidelity, sigma=sigma, max_iter=calls, lambda_=strength)
        return _back(method(_units(measurement), _physics(library, measurement)))

    return solve


def their_ddrm(library: Any, *, eta: float = 0.85, first: float = 1.0) -> Solve:
    """One call a step."""

    def solve(denoiser: BaseDenoiser, cond: Condition | None, measurement: Measurement, calls: int) -> Tensor:
        network = _network(library, denoiser, cond)
        method = library.sampling.DDRM(network, sigmas=np.linspace(first, 0.0, calls), eta=eta)
        return _back(method(_units(measurement), _physics(library, measurement)))

    return solve


def _back(x: Tensor) -> Tensor:
    return (2.0 * x.detach().float() - 1.0).clamp(-1.0, 1.0)


def bicubic(measurement: Measurement) -> Tensor:
    """A small picture enlarged by a cubic."""
    operator = measurement.operator
    assert isinstance(operator, Downsample)
    return F.interpolate(measurement.y, scale_factor=operator.factor, mode="bicubic", align_corners=False).clamp(-1, 1)


def total_variation(measurement: Measurement, weight: float, *, steps: int = 300) -> Tensor:
    """argmin |y - A x|^2 / 2 + weight * TV(x) by the primal-dual method of Chambolle and Pock (2011, algorithm 1).

    TV is isotropic and joins the channels.
    """
    operator = measurement.operator
    # Close to the least squares, with what is drowned in noise damped.
    x = measurement.towards(torch.zeros_like(operator.pinv(measurement.y)), 1e-2)
    over, dual = x.clone(), torch.zeros(2, *x.shape)
    # |gradient|^2 <= 8.
    primal_step = dual_step = 8.0**-0.5
    for _ in range(steps):
        dual = dual + dual_step * _gradient(over)
        dual = dual / (dual.square().sum((0, 2), keepdim=True).sqrt() / weight).clamp_min(1.0)
        before = x
        x = measurement.towards(x - primal_step * _gradient_adjoint(dual), 1.0 / primal_step)
        over = 2.0 * x - before
    return x.clamp(-1.0, 1.0)


def _gradient(x: Tensor) -> Tensor:
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    down[..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    right[..., :-1] = x[..., 1:] - x[..., :-1]
    return torch.stack([down, right])


def _gradient_adjoint(dual: Tensor) -> Tensor:
    down, right = dual
    x = torch.zeros_like(down)
    x[..., :-1, :] -= down[..., :-1, :]
    x[..., 1:, :] += down[..., :-1, :]
    x[..., :-1] -= right[..., :-1]
    x[..., 1:] += right[..., :-1]
    return x
