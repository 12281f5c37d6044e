"""The stochastic differential equation of a Gaussian path.

The samples x_t = alpha x0 + sigma eps of every schedule are those of the linear SDE dx = f(t) x dt + g(t) dw started at
data, with

    f = alpha' / alpha        g^2 = 2 sigma sigma' - 2 f sigma^2 = -sigma^2 d log-SNR / dt

(Kingma et al. 2021, arXiv 2107.00630, section 3; Karras et al. 2022, arXiv 2206.00364, appendix B). The VP, VE and
sub-VP SDEs of Song et al. 2021 (arXiv 2011.13456, eqs. 25 to 29) are those of the schedules of these names.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kakusan.schedules import NoiseSchedule


def drift(schedule: NoiseSchedule, t: Tensor | float) -> Tensor:
    """f(t) = alpha' / alpha, of the shape of t, in 1 / (unit of t); minus infinity where alpha is zero.

    Raises:
        ValueError: t outside [0, 1].
    """
    times = _checked(t)
    return schedule.alpha_prime(times) / schedule.alpha(times)


def squared_diffusion(schedule: NoiseSchedule, t: Tensor | float) -> Tensor:
    """g(t)^2, of the shape of t: the variance that the SDE adds per unit of t.

    Raises:
        ValueError: t outside (0, 1]. At t = 0 sigma is zero and its slope may be infinite; take a small t there.
    """
    times = _checked(t)
    if bool((times == 0.0).any()):
        raise ValueError("the diffusion at t = 0 is a limit; ask for a small t, such as schedule.t_min")
    sigma = schedule.sigma(times)
    return 2.0 * sigma * (schedule.sigma_prime(times) - drift(schedule, times) * sigma)


def diffusion(schedule: NoiseSchedule, t: Tensor | float) -> Tensor:
    """g(t), of the shape of t; arguments and errors as in `squared_diffusion`."""
    return squared_diffusion(schedule, t).sqrt()


def _checked(t: Tensor | float) -> Tensor:
    times = t if isinstance(t, Tensor) and t.is_floating_point() else torch.as_tensor(t, dtype=torch.float64)
    if not bool(((times >= 0.0) & (times <= 1.0)).all()):
        raise ValueError(f"t runs from 0 (data) to 1 (noise); got values from {times.min():.4g} to {times.max():.4g}")
    return times
