"""The figures of pages 07 to 13."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

from kakusan import grids
from kakusan.conditioning import Condition
from kakusan.couplings import optimal_assignment
from kakusan.guidance import ClassifierFree
from kakusan.likelihood import flow_log_prob
from kakusan.oracles import GaussianMixture
from kakusan.parameterizations import Edm
from kakusan.report import style
from kakusan.samplers import DDIM, IPNDM, DPMSolverPP, Heun, Sampler, UniPC
from kakusan.schedules import Cosine, Karras, Rectified, SubVariancePreserving, VarianceExploding, VariancePreserving

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sde() -> Figure:
    figure, axes = row(3, height=620, rows=2)
    named = (
        ("VP", VariancePreserving(), 3.2),
        ("sub-VP", SubVariancePreserving(), 3.2),
        ("VE", VarianceExploding(0.01, 5.0), 12.0),
    )
    for column, (name, schedule, reach) in enumerate(named):
        model = two_hills(schedule)
        t = torch.linspace(0, 1, 401, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x = data(model, 9)
        walk = [x]
        for i in range(400):
            ratio = alpha[i + 1] / alpha[i]
            x = ratio * x + (sigma[i + 1] ** 2 - (ratio * sigma[i]) ** 2).clamp_min(0).sqrt() * normals(9, 1, 300 + i)
            walk.append(x)
        river(axes[column], model, reach)
        axes[column].plot(t, torch.stack(walk).squeeze(-1), lw=0.7, color=style.INK, alpha=0.7)
        title(axes[column], f"{name}: forward SDE")
        start = quantiles(15) * float((alpha[-1] ** 2 * 1.1 + sigma[-1] ** 2) ** 0.5)
        times, way = paths(model, DPMSolverPP(order=2), grids.uniform(schedule, 300), start)
        river(axes[3 + column], model, reach)
        axes[3 + column].plot(times, way[:, :, 0], lw=1.0, color=style.VERMILION, alpha=0.85)
        title(axes[3 + column], f"{name}: probability flow")
    return figure


def vdm() -> Figure:
    figure, axes = row(3, height=350)
    span, t = 10.0, line(0.0, 1.0, 1201)
    sharp = 1 / (1 + (-(9.0 * (t - 0.5))).exp())
    ways = (
        ("linear", t),
        ("early", (1.0 + 3.0 * t).log() / math.log(4.0)),
        ("middle", (sharp - sharp[0]) / (sharp[-1] - sharp[0])),
    )
    model = two_hills(VariancePreserving())
    grid = line(-span, span, 801)
    per_unit = (0.5 * grid.exp() * error_of_x0(model, model.schedule.time(grid))).numpy()
    for (name, share), colour in zip(ways, style.SERIES, strict=False):
        log_snr = span - 2 * span * share
        slope = np.gradient(-log_snr.numpy(), t.numpy())
        rate = np.interp(log_snr.numpy(), grid.numpy(), per_unit) * slope
        area = np.trapezoid(rate, t.numpy())
        axes[0].plot(t, log_snr, color=colour, lw=2, label=name)
        axes[1].plot(t, rate, color=colour, lw=2, label=f"{name}: area {area:.2f}")
        axes[1].fill_between(t, rate, color=colour, alpha=0.08, lw=0)
        axes[2].bar(name, math.sqrt(max(np.trapezoid(rate**2, t.numpy()) - area**2, 0)), color=colour, width=0.55)
    title(axes[0], "three roads, same ends")
    axes[0].set(xlabel="t", ylabel="log-SNR")
    title(axes[1], "same area: same bound")
    axes[1].set(xlabel="t", ylabel="loss at t", ylim=(0, 25))
    title(axes[2], "not the same scatter over t")
    axes[2].set_ylabel("std of the loss, t random")
    legend(axes[0])
    legend(axes[1])
    return figure


def edm() -> Figure:
    figure, axes = row(3, height=350)
    sigma = torch.logspace(-3, 2, 200, dtype=torch.float64)
    schedule = Karras()
    t = schedule.time(-2 * sigma.log())
    a, b = Edm(0.5).row(schedule, t)
    c_skip = -b / (b.neg() + sigma * a)
    c_out = 1.0 / (a - b / sigma)
    c_in = 1.0 / (sigma**2 + 0.25).sqrt()
    for curve, label, colour in (
        (c_skip, "c_skip", style.INDIGO),
        (c_out, "c_out", style.VERMILION),
        (c_in, "c_in", style.MOSS),
    ):
        axes[0].semilogx(sigma, curve, color=colour, lw=2, label=label)
    axes[0].set(xlabel="σ")
    title(axes[0], "preconditioning, σ_data = 0.5")
    legend(axes[0])
    for height, rho in enumerate((1.0, 3.0, 7.0, 50.0)):
        grid = grids.karras(schedule, 18, rho=rho)[:-1]
        axes[1].plot(schedule.sigma(grid), [height] * len(grid), "|", ms=16, mew=1.6, color=style.SERIES[height])
    axes[1].set(xscale="log", xlabel="σ", yticks=range(4), yticklabels=["ρ = 1", "3", "7", "50"], ylim=(-0.6, 3.6))
    axes[1].grid(False)
    title(axes[1], "where 18 steps go")
    model = two_hills(schedule)
    start = quantiles(41) * 80.0
    exact = paths(model, IPNDM(order=4), grids.karras(schedule, 4000), start)[1][-1]
    for (label, sampler, rho, calls), colour in zip(
        (("Euler, ρ = 1", DDIM(), 1.0, 1), ("Euler, ρ = 7", DDIM(), 7.0, 1), ("Heun, ρ = 7", Heun(), 7.0, 2)),
        (style.MUTED, style.INDIGO, style.VERMILION),
        strict=True,
    ):
        counts = [8, 16, 32, 64, 128]
        errors = [
            np.abs(paths(model, sampler, grids.karras(schedule, n, rho=rho), start)[1][-1] - exact).mean()
            for n in counts
        ]
        axes[2].loglog([calls * n for n in counts], errors, "o-", ms=5, lw=2, color=colour, label=label)
    axes[2].set(xlabel="network calls", ylabel="mean error of a sample")
    title(axes[2], "what it buys")
    legend(axes[2])
    return figure


def flow() -> Figure:
    figure, axes = row(4, height=318)
    model = trefoil(Rectified())
    count = 60
    x0, eps = data(model, count), normals(count, 2, 3)
    column = optimal_assignment(x0, eps)
    _, way = paths(model, DPMSolverPP(order=2), grids.uniform(Rectified(), 100), eps)
    pairs = (
        ("independent pairs", np.stack([eps, x0])),
        ("minibatch transport", np.stack([eps[column], x0])),
        ("the flow of independent pairs", way),
        ("its ends, joined: reflow", way[[0, -1]]),
    )
    for one, (name, lines) in zip(axes, pairs, strict=True):
        one.plot(lines[:, :, 0], lines[:, :, 1], lw=0.8, color=style.INK, alpha=0.45)
        one.scatter(*lines[0].T, s=9, color=style.MUTED, linewidths=0, zorder=3)
        one.scatter(*lines[-1].T, s=11, color=style.VERMILION, linewidths=0, zorder=4)
        plane(one, 2.7)
        title(one, name)
    return figure


def likelihood() -> Figure:
    figure, axes = row(3, height=350)
    model = two_hills(Cosine())
    river(axes[0], model, 2.8)
    times, way = paths(model, DPMSolverPP(order=2), grids.uniform(Cosine(), 200), quantiles(25))
    axes[0].plot(times, way[:, :, 0], lw=0.9, color=style.INK, alpha=0.75)
    title(axes[0], "lines crowd where p grows")
    x = line(-2.2, 2.2, 161).unsqueeze(1)
    exact = model.log_prob(x)
    axes[1].plot(x, exact, color=style.INK, lw=3.5, alpha=0.35, label="exact")
    for count, colour in ((4, style.AMBER), (8, style.VERMILION), (32, style.INDIGO)):
        axes[1].plot(x, flow_log_prob(model, x, num_steps=count), lw=1.6, color=colour, label=f"{count} steps")
    axes[1].set(xlabel="x", ylabel="log p(x), nats", ylim=(-12.5, 6.5))
    title(axes[1], "log p by the flow")
    axes[1].legend(frameon=False, fontsize=9, labelcolor=style.INK, loc="upper center", ncols=2)
    counts = [4, 8, 16, 32, 64, 128]
    gaps = [
        float(((flow_log_prob(model, x, num_steps=n) - exact).abs() * exact.exp()).sum() * (x[1] - x[0]))
        for n in counts
    ]
    axes[2].loglog(counts, gaps, "o-", lw=2, ms=5, color=style.INDIGO, label="mean |error|")
    axes[2].loglog(
        counts[2:], [gaps[-1] * (counts[-1] / n) ** 4 for n in counts[2:]], "--", color=style.MUTED, label="slope −4"
    )
    axes[2].set(xlabel="steps", ylabel="nats")
    title(axes[2], "it converges as its solver does")
    legend(axes[2])
    return figure


def samplers() -> Figure:
    figure, axes = row(2)
    schedule = Cosine()
    model = two_hills(schedule)

    def at(log_snr: float) -> float:
        return float(schedule.time(torch.tensor(log_snr, dtype=torch.float64)))

    river(axes[0], model, 2.8)
    start = quantiles(13)
    for count, colour in ((4, style.VERMILION), (8, style.AMBER), (200, style.INK)):
        times, way = paths(model, DDIM(), grids.uniform(schedule, count), start)
        axes[0].plot(times, way[:, 1::5, 0], "o-" if count < 20 else "-", ms=3.5, lw=1.2, color=colour)
        axes[0].plot([], [], color=colour, label=f"DDIM, {count} steps")
    title(axes[0], "few steps cut corners")
    legend(axes[0], "upper right")
    ends = {"start": at(-4.0), "end": at(4.0)}
    exact = paths(model, UniPC(order=3), grids.log_snr(schedule, 4096, **ends), start)[1][-1]
    named: Sequence[tuple[str, Sampler, int]] = (
        ("DDIM (1)", DDIM(), 1),
        ("Heun (2)", Heun(), 2),
        ("DPM-Solver++ 2M (2)", DPMSolverPP(order=2), 1),
        ("DPM-Solver++ 3M (3)", DPMSolverPP(order=3), 1),
        ("UniPC 3 (4)", UniPC(order=3), 1),
    )
    for (name, sampler, calls), colour in zip(named, style.SERIES, strict=True):
        counts = [8, 16, 32, 64, 128, 256]
        errors = [
            np.abs(paths(model, sampler, grids.log_snr(schedule, n, **ends), start)[1][-1] - exact).mean()
            for n in counts
        ]
        axes[1].loglog([calls * n for n in counts], errors, "o-", lw=2, ms=4.5, color=colour, label=name)
    axes[1].set(xlabel="network calls", ylabel="mean error of a sample")
    title(axes[1], "slope = − order (claimed order in brackets)")
    legend(axes[1], "lower left")
    return figure


def guidance() -> Figure:
    figure, axes = row(4, height=318)
    schedule = Cosine()
    means = torch.tensor([[-0.9, 0.5], [0.2, 0.9], [-0.1, -0.7], [1.1, 0.0]])
    model = GaussianMixture(means, 0.33, schedule=schedule)
    wanted = torch.tensor([[0.0, -torch.inf, -torch.inf, 0.0]])
    null, cond = Condition(vector=torch.zeros(1, 4)), Condition(vector=wanted.clamp_min(-40.0))
    start = normals(160, 2, 5)
    for one, scale in zip(axes, (0.0, 1.0, 2.0, 5.0), strict=True):
        cloud(one, model, 0.0, 2.5)
        inside = GaussianMixture(means[[0, 3]], 0.33, schedule=schedule)
        side = line(-2.5, 2.5, 121)
        xx, yy = torch.meshgrid(side, side, indexing="xy")
        density = inside.log_prob(torch.stack([xx.reshape(-1), yy.reshape(-1)], 1)).exp().reshape(121, 121)
        one.contour(side, side, density, levels=[0.05, 0.2], colors=style.MOSS, linewidths=1.0)
        guided = ClassifierFree(scale=scale)(model, null)
        way = paths(guided, DPMSolverPP(order=2), grids.uniform(schedule, 60), start, cond)[1]
        one.scatter(*way[-1].T, s=8, color=style.VERMILION, alpha=0.8, linewidths=0)
        plane(one, 2.5)
        title(one, f"scale = {scale:g}")
    return figure
