"""The words and the picture of docs/results/stochastic-samplers.md; the numbers are stochastic_samplers.py's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D

from kakusan.report.style import INK, MUTED, SERIES, figure, style_axes, use_bundled_font

STYLES = {"alone": "-", "level": "--", "norm": ":"}


def draw(
    curves: Mapping[tuple[str, str], Mapping[tuple[str, str], Sequence[float]]],
    floor: Mapping[str, float],
    budgets: Sequence[int],
    path: Path,
) -> None:
    """One panel for each set and score: distance against network calls."""
    chart = figure(1200, 820)
    sets = list(dict.fromkeys(where for where, _ in curves))
    names = list(dict.fromkeys(name for name, _ in next(iter(curves.values()))))
    highest = {s: max(v for (w, _), panel in curves.items() if w == s for c in panel.values() for v in c) for s in sets}
    for index, ((where, kind), panel) in enumerate(curves.items()):
        row, column = divmod(index, len(curves) // len(sets))
        axes = style_axes(chart.add_axes((0.065 + 0.315 * column, 0.52 - 0.385 * row, 0.275, 0.30)))
        for (name, rule), values in panel.items():
            colour = SERIES[names.index(name)]
            axes.plot(budgets, values, STYLES[rule], color=colour, lw=1.8, marker="o", ms=3.5)
        axes.axhline(floor[where], color=MUTED, lw=1.0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(0.6 * floor[where], 1.4 * highest[where])
        axes.minorticks_off()
        axes.set_xticks(budgets, [str(b) for b in budgets])
        ticks = [
            v for v in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if axes.get_ylim()[0] < v < axes.get_ylim()[1]
        ]
        axes.set_yticks(ticks, [f"{v:g}" for v in ticks])
        axes.set_title(f"{where}: {kind}", loc="left", fontsize=10.5, color=INK)
        if row == len(sets) - 1:
            axes.set_xlabel("network calls", color=MUTED, fontsize=10)
    chart.text(0.03, 0.945, "Does a Langevin corrector earn its calls?", fontsize=16, color=INK, weight="bold")
    chart.text(
        0.03,
        0.905,
        "Sliced Wasserstein distance to exact samples at equal network calls; lower is better. "
        "Grey line: two sets of exact samples.",
        fontsize=10.5,
        color=MUTED,
    )
    handles = [Line2D([], [], color=SERIES[i], lw=1.8, label=name) for i, name in enumerate(names)]
    labels = {"alone": "alone", "level": "corrector, level rule", "norm": "corrector, norm rule"}
    handles += [Line2D([], [], color=INK, ls=STYLES[rule], lw=1.8, label=text) for rule, text in labels.items()]
    chart.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.025, 0.005), ncols=6, fontsize=10, frameon=False)
    use_bundled_font(chart)
    FigureCanvasAgg(chart)
    chart.savefig(path, dpi=130, metadata={"Software": None})


PAGE = """# Stochastic samplers

    python benchmarks/stochastic_samplers.py

Weak orders, right marginals, and predictor-corrector at equal cost. The denoisers are known in closed form, so every
error here is the sampler's. Everything is seeded; no number depends on the machine beyond rounding.

## Weak order

Error of the variance of the end on a Gaussian (mean 0.7, standard deviation 0.3) between log-SNR -4 and 4, steps even
in log-SNR, by exact moments: slope over {steps} steps. On a Gaussian the score is linear, which hides some
errors; the last order is that of the expectations of six waves on a mixture of three Gaussians, carried backwards
through the steps by quadrature ({mixture_steps} uniform steps on the cosine path; "–": a sampler with memory, for which
that does not work). First order may measure 0.9 to 1.1, second from 1.85 up; what misses its claim would be bold.

{orders}

SEEDS-2 pays two calls a step for weak order 2 on any target; the SDE multistep solvers pay one, and their order 2 is
shown on a Gaussian only.

## Right marginals

Unbiased MMD^2 of {points} samples against {points} exact ones (Gaussian kernel at their median distance), for the
schedules of the SDEs. The floor is the same statistic of {floors} more sets of exact samples:
{spread}.
The cells count standard deviations of that floor from its mean; bold is above all {floors} sets, which exact samples
would be once in {floors} + 1. Grids are even in log-SNR and run to data. The control has too few steps on purpose, to
show that the test can fail: Euler-Maruyama with {control} calls.

{mmd}

Apart from the control {outside} of {compared} comparisons are above their floor: all four of the norm rule, which does
not draw from p_t in the plane at all (below), and on the unequal set the level rule's corrector and DDPM with half the
calls. The last two are one finding: half of the corrector's calls are no steps, and with four times the calls it is
within. Euler-Maruyama, DDPM, SEEDS-2, the SDE multistep solvers and Heun with churn are within their floor on all four
sets, so at 100 calls this table ranks none of them above another. DPM-Solver++ 1 SDE is DDPM, and draws the same
samples up to rounding. Rows share their starting noise, so cells of one column are not independent; nor are the columns
VP and sub-VP, since an exact denoiser on a grid even in log-SNR does not know the schedule's scale. The eight points
are too even to betray the control, the unequal set is not.

## Does predictor-corrector help at equal network calls?

Langevin steps (snr 0.16, one after each step of the predictor) cost a call each, so the corrected sampler makes half
the steps. Sliced Wasserstein distance of {drawn} samples to exact ones, VP, grids even in log-SNR. The score is exact,
or wrong in one of two ways: every eps a tenth too small, or a smooth wave added to x0 (a fifth of the posterior's scale
where noise and signal are equal). "Level rule" takes the step size from the noise level, "norm rule" from the norms of
score and noise of each sample (algorithms 4 and 5 of Song et al. 2021, per sample in place of the mean over a batch).

![Sliced Wasserstein distance against network calls]({picture})

{counts}

{verdict}

{whole}

Two sets of exact samples are apart by {floor}; near that a difference means nothing.
"""

VERDICT = """**It does not help, with one exception that is not worth having.** With an exact score the corrector mostly
costs: the steps it takes from the predictor are missed. A smooth error of the score leads both astray alike (in 64
dimensions it averages out). A score that is too small leaves the samples of the flow (DDIM) too wide, and there the
corrector does help from 25 calls on, on both sets; but DDPM alone, without any corrector, is nearer still at the same
calls in all six of these places.

The norm rule belongs to samples of many numbers. In the plane the norm of a score is often near zero, the step is then
far too long, and more steps make it worse: with one norm for each sample, Langevin dynamics do not keep p_t there. The
level rule (our default) does. In 64 dimensions the two are alike."""
