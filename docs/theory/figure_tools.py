"""What the figures of docs/theory share: the data, the exact denoisers, the look."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.lab.colours import density_scale
from kakusan.noise import Stream, normal, uniform
from kakusan.oracles import GaussianMixture
from kakusan.report import style
from kakusan.samplers import Sampler, sample_iter
from kakusan.schedules import NoiseSchedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = Path(__file__).parent.parent / "pictures"
SEED = 20261121


def two_hills(schedule: NoiseSchedule) -> GaussianMixture:
    """The data of every one-dimensional figure: two Gaussians on the line, the right one heavier."""
    return GaussianMixture(
        torch.tensor([[-1.0], [1.0]]), torch.tensor([0.25, 0.25]), torch.tensor([0.4, 0.6]), schedule=schedule
    )


def trefoil(schedule: NoiseSchedule, std: float = 0.22) -> GaussianMixture:
    """The data of the two-dimensional figures: three Gaussians around the origin."""
    angle = torch.tensor([90.0, 210.0, 330.0]) * math.pi / 180.0
    return GaussianMixture(1.4 * torch.stack([angle.cos(), angle.sin()], 1), std, schedule=schedule)


def normals(count: int, dim: int, draw: int = 0) -> Tensor:
    return normal(range(SEED, SEED + count), Stream.START, draw, shape=(dim,), dtype=torch.float64)


def quantiles(count: int) -> Tensor:
    """(count, 1): evenly spread standard normal values."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).unsqueeze(1)


def data(model: GaussianMixture, count: int, draw: int = 0) -> Tensor:
    return model.draw(uniform(range(SEED, SEED + count), Stream.TIME, draw), normals(count, model.shape[0], draw + 50))


def paths(
    denoiser: BaseDenoiser, sampler: Sampler, grid: Tensor, start: Tensor, cond: Condition | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(times (N + 1,), samples (N + 1, B, D))."""
    steps = sample_iter(denoiser, sampler, grid, start.shape, cond, seeds=SEED, x_start=start, dtype=torch.float64)
    found = [start, *(step.x_s for step in steps)]
    return grid.numpy(), torch.stack(found).detach().numpy()


def row(count: int, *, width: int = 1100, height: int = 380, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = style.figure(width, height)
    axes = [style.style_axes(figure.add_subplot(rows, count, i + 1)) for i in range(count * rows)]
    return figure, axes


def title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=11, color=style.INK, pad=8, loc="left")


def legend(axes: Axes, where: str = "best") -> None:
    axes.legend(frameon=False, fontsize=9, labelcolor=style.INK, loc=where)


def plane(axes: Axes, reach: float) -> None:
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axes.grid(False)
    for side in axes.spines.values():
        side.set(visible=True, color=style.RULE)


def river(axes: Axes, model: GaussianMixture, reach: float) -> None:
    """p_t(x) over t and x, each column scaled to its own height so that both ends can be seen."""
    t = torch.linspace(0.0, 1.0, 241, dtype=torch.float64).clamp(min=1e-6)
    x = torch.linspace(-reach, reach, 301, dtype=torch.float64)
    density = torch.stack([model.log_prob(x.unsqueeze(1), float(one)).exp() for one in t], 1)
    image = (density / density.max(0).values).sqrt().numpy()
    extent = (0.0, 1.0, -reach, reach)
    # Half of the scale: lines drawn on top must stand out.
    axes.imshow(image, extent=extent, origin="lower", aspect="auto", cmap=density_scale(), vmin=0.0, vmax=2.0)
    axes.grid(False)
    axes.set(xlim=(0, 1), ylim=(-reach, reach), xlabel="t", ylabel="x")


def cloud(axes: Axes, model: GaussianMixture, t: float, reach: float) -> None:
    line = torch.linspace(-reach, reach, 161, dtype=torch.float64)
    xx, yy = torch.meshgrid(line, line, indexing="xy")
    density = model.log_prob(torch.stack([xx.reshape(-1), yy.reshape(-1)], 1), t).exp().reshape(161, 161)
    extent = (-reach, reach, -reach, reach)
    axes.imshow(
        density.sqrt().numpy(),
        extent=extent,
        origin="lower",
        cmap=density_scale(),
        vmin=0.0,
        vmax=1.9 * float(density.max()) ** 0.5,
    )


def line(low: float, high: float, count: int = 400) -> Tensor:
    return torch.linspace(low, high, count, dtype=torch.float64)


def error_of_x0(model: GaussianMixture, t: Tensor) -> Tensor:
    """E |x0 - E[x0 | x_t]|^2 at times t (N,), by quadrature over each component's x_t (one-dimensional data)."""
    node, weight = np.polynomial.hermite_e.hermegauss(120)
    node, weight = torch.from_numpy(node), torch.from_numpy(weight / math.sqrt(2.0 * math.pi))
    second = float((model.log_weights.exp() * (model.means**2 + model.variance).squeeze(1)).sum())
    found = []
    for one in t:
        alpha, sigma = model.schedule.alpha(one), model.schedule.sigma(one)
        explained = torch.zeros((), dtype=torch.float64)
        for mean, variance, log_weight in zip(model.means, model.variance, model.log_weights, strict=True):
            x_t = (alpha * mean + (alpha**2 * variance + sigma**2).sqrt() * node).unsqueeze(1)
            x0 = model(x_t, float(one)).x0.squeeze(1)
            explained = explained + log_weight.exp() * (weight * x0**2).sum()
        found.append((second - explained).clamp_min(0.0))
    return torch.stack(found)
