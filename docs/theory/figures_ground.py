"""The figures of pages 00 to 06."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from figure_tools import (
    cloud,
    data,
    error_of_x0,
    legend,
    line,
    normals,
    paths,
    plane,
    quantiles,
    river,
    row,
    title,
    trefoil,
    two_hills,
)
from torch import Tensor

from kakusan import grids
from kakusan.data.toys import TOYS
from kakusan.levels import tabulate
from kakusan.oracles import DataSet
from kakusan.report import style
from kakusan.samplers import DDIM, DDPM
from kakusan.schedules import Cosine, Rectified, VariancePreserving
from kakusan.transitions import posterior_mean_factors, posterior_variance, transition_variance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def index() -> Figure:
    """The idea: data dissolve into noise, and noise condenses into data."""
    figure, axes = row(6, height=420, rows=2)
    x0 = TOYS["moons"].sample(700, seed=3)
    model = DataSet(x0, schedule=Cosine())
    eps = normals(700, 2)
    grid = grids.uniform(Cosine(), 60)
    times, way = paths(model, DDPM(), grid, normals(700, 2, 9))
    for column, t in enumerate((0.0, 0.2, 0.4, 0.6, 0.8, 1.0)):
        at = torch.tensor(t, dtype=torch.float64)
        forward = Cosine().alpha(at) * x0 + Cosine().sigma(at) * eps
        nearest = int(np.abs(times - (1.0 - t)).argmin())
        for place, points, colour in ((column, forward, style.INDIGO), (6 + column, way[nearest], style.VERMILION)):
            axes[place].scatter(points[:, 0], points[:, 1], s=2.2, color=colour, alpha=0.6, linewidths=0)
            plane(axes[place], 3.3)
        title(axes[column], f"t = {t:.1f}")
        title(axes[6 + column], f"t = {1 - t:.1f}")
    axes[0].set_ylabel("forward", color=style.INDIGO)
    axes[6].set_ylabel("reverse", color=style.VERMILION)
    return figure


def gaussian() -> Figure:
    figure, axes = row(3, height=350)
    x = line(-4, 5)

    def bell(mean: float, std: float) -> Tensor:
        return (-0.5 * ((x - mean) / std) ** 2).exp() / (std * math.sqrt(2 * math.pi))

    def fill(axes: Axes, curve: Tensor, colour: str, label: str) -> None:
        axes.plot(x, curve, color=colour, lw=2, label=label)
        axes.fill_between(x, curve, color=colour, alpha=0.12, lw=0)

    fill(axes[0], bell(0, 0.6), style.INDIGO, "$x$:  0, 0.6²")
    fill(axes[0], bell(1, 0.8), style.MOSS, "$y$:  1, 0.8²")
    fill(axes[0], bell(1, 1.0), style.VERMILION, "$x + y$:  1, 1.0²")
    title(axes[0], "sum: means and variances add")
    prior, seen = (0.0, 1.0), (1.6, 0.6)
    precision = 1 / prior[1] ** 2 + 1 / seen[1] ** 2
    mean, std = (prior[0] / prior[1] ** 2 + seen[0] / seen[1] ** 2) / precision, precision**-0.5
    fill(axes[1], bell(*prior), style.INDIGO, "prior")
    fill(axes[1], bell(*seen), style.MOSS, "likelihood")
    fill(axes[1], bell(mean, std), style.VERMILION, "posterior")
    title(axes[1], "product: precisions add")
    p, q = bell(0, 1.0), bell(1.5, 0.8)
    fill(axes[2], q, style.VERMILION, "$q$")
    fill(axes[2], p, style.INDIGO, "$p$")
    axes[2].plot(x, q * (q / p).log(), color=style.INK, lw=1.3, ls="--", label=r"$q\,\log(q/p)$")
    title(axes[2], "KL(q ‖ p): area under the dashed line")
    for one in axes:
        one.set(xlim=(-4, 5), yticks=[])
        one.set_ylim(top=1.0)
        legend(one, "upper left")
    axes[2].set_ylim(-0.35, 1.35)
    return figure


def chain() -> Figure:
    figure, axes = row(2)
    schedule = VariancePreserving()
    model = two_hills(schedule)
    river(axes[0], model, 3.2)
    steps, many = 1000, 20000
    x = data(model, many)
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    kept, way = [x[:14].clone()], x
    middle = x
    for i in range(steps):
        ratio = alpha[i + 1] / alpha[i]
        fresh = (sigma[i + 1] ** 2 - ratio**2 * sigma[i] ** 2).sqrt()
        way = ratio * way + fresh * normals(many, 1, 100 + i)
        kept.append(way[:14].clone())
        middle = way if i + 1 == 350 else middle
    walked = torch.stack(kept).squeeze(-1).numpy()
    axes[0].plot(t, walked, lw=0.7, color=style.INK, alpha=0.6)
    title(axes[0], "1000 small steps (lines), p_t(x) in colour")
    at = float(t[350])
    axes[1].hist(
        middle.squeeze(1).numpy(), bins=80, density=True, color=style.INDIGO, alpha=0.35, label="350 small steps"
    )
    x = line(-3.2, 3.2)
    axes[1].plot(x, model.log_prob(x.unsqueeze(1), at).exp(), color=style.VERMILION, lw=2, label="one jump, exact")
    axes[1].set(xlabel="x at t = 0.35", xlim=(-3.2, 3.2), yticks=[])
    title(axes[1], "the chain and the jump agree")
    legend(axes[1])
    return figure


def denoiser() -> Figure:
    figure, axes = row(4, height=318)
    model = trefoil(Rectified())
    side = torch.linspace(-2.2, 2.2, 12, dtype=torch.float64)
    xx, yy = torch.meshgrid(side, side, indexing="xy")
    points = torch.stack([xx.reshape(-1), yy.reshape(-1)], 1)
    for one, t in zip(axes[:3], (0.15, 0.4, 0.7), strict=True):
        cloud(one, model, t, 2.6)
        towards = model(points, t).x0 - points
        one.quiver(*points.T, *towards.T, angles="xy", scale_units="xy", scale=2.2, width=0.006, color=style.VERMILION)
        plane(one, 2.6)
        title(one, f"E[x0 | x_t] − x_t,  t = {t}")
    cloud(axes[3], model, 0.4, 2.6)
    score = model(points, 0.4).score
    axes[3].quiver(*points.T, *score.T, angles="xy", scale_units="xy", scale=18, width=0.006, color=style.MOSS)
    plane(axes[3], 2.6)
    title(axes[3], "score,  t = 0.4")
    return figure


def bound() -> Figure:
    figure, axes = row(2)
    model = two_hills(VariancePreserving())
    log_snr = line(-12, 12, 481)
    error = error_of_x0(model, model.schedule.time(log_snr))
    rate = 0.5 * log_snr.exp() * error
    axes[0].plot(log_snr, rate, color=style.INDIGO, lw=2)
    axes[0].fill_between(log_snr, rate, color=style.INDIGO, alpha=0.15, lw=0)
    axes[0].axhline(0.5, color=style.MUTED, lw=1, ls="--")
    axes[0].text(-11.5, 0.515, "limit 1/2: the error left is the noise itself", color=style.MUTED, fontsize=9)
    axes[0].set(xlabel="log-SNR  (noise ← → data)", ylabel="nats per unit of log-SNR", ylim=(0, 0.6))
    title(axes[0], "the diffusion term, level by level")
    grid = line(-3, 3, 4001)
    log_p = model.log_prob(grid.unsqueeze(1))
    entropy = float(-(log_p.exp() * log_p).sum() * (grid[1] - grid[0]))
    second = float((model.log_weights.exp() * (model.means**2 + model.variance).squeeze(1)).sum())
    low, high = -10.0, 10.0
    ends = math.exp(low) * second / 2 + 0.5 * math.log(2 * math.pi * math.e * math.exp(-high))
    counts, gaps = [4, 8, 16, 32, 64, 128, 256, 512], []
    for count in counts:
        levels = line(high, low, count + 1)
        snr = levels.exp()
        diffusion = 0.5 * ((snr[:-1] - snr[1:]) * error_of_x0(model, model.schedule.time(levels[1:]))).sum()
        gaps.append(float(diffusion) + ends - entropy)
    axes[1].loglog(counts, gaps, "o-", color=style.VERMILION, lw=2, ms=5, label="bound of T steps − entropy")
    axes[1].loglog(counts, [gaps[-1] * counts[-1] / c for c in counts], "--", color=style.MUTED, label="slope −1")
    axes[1].set(xlabel="T", ylabel="nats")
    title(axes[1], "more steps, tighter bound")
    legend(axes[1])
    return figure


def ddpm() -> Figure:
    figure, axes = row(2)
    schedule = VariancePreserving()
    model = two_hills(schedule)
    river(axes[0], model, 3.2)
    times, way = paths(model, DDPM(), grids.uniform(schedule, 400), quantiles(2).repeat_interleave(7, 0))
    for k, colour in ((0, style.VERMILION), (1, style.INK)):
        axes[0].plot(times, way[:, 7 * k : 7 * k + 7, 0], lw=0.8, color=colour, alpha=0.75)
    title(axes[0], "two starts, seven draws of noise each")
    std = 0.5
    counts = [5, 10, 20, 50, 100, 200, 500, 1000]
    for added, colour, label in (
        (posterior_variance, style.INDIGO, "small: posterior variance"),
        (transition_variance, style.VERMILION, "large: β"),
    ):
        found = []
        for count in counts:
            levels = tabulate(schedule, grids.uniform(schedule, count))
            variance = levels[0].alpha ** 2 * std**2 + levels[0].sigma ** 2
            for t, s in itertools.pairwise(levels):
                kept, gain = posterior_mean_factors(t, s)
                guess = t.alpha * std**2 / (t.alpha**2 * std**2 + t.sigma**2)
                variance = (kept + gain * guess) ** 2 * variance + added(t, s) * (s.sigma > 0)
            found.append(math.sqrt(variance))
        axes[1].semilogx(counts, found, "o-", color=colour, lw=2, ms=5, label=label)
    axes[1].axhline(std, color=style.MUTED, lw=1, ls="--", label="the data")
    axes[1].set(xlabel="steps", ylabel="standard deviation of the samples")
    title(axes[1], "the variance matters when steps are few")
    legend(axes[1])
    return figure


def ddim() -> Figure:
    figure, axes = row(3, height=340)
    model = two_hills(Cosine())
    for one, eta in zip(axes, (0.0, 0.5, 1.0), strict=True):
        river(one, model, 2.8)
        times, way = paths(model, DDIM(eta=eta), grids.uniform(Cosine(), 120), quantiles(12))
        one.plot(times, way[:, :, 0], lw=1.0, color=style.INK, alpha=0.75)
        title(one, f"η = {eta:g}")
    return figure
