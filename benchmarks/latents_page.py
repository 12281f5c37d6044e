"""The page of `benchmarks/latents.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import common
from common import Spread, table
from latents_equal import Contestant, Found, strongest, times, verdicts


def section(found: Found) -> str:
    """One size of pictures, in Markdown."""
    first = found.spaces[0]
    ratios = ", ".join(f"{name} {value:.2f}" for name, value in found.held_out.items())
    parts = [
        f"## {found.size} x {found.size} pixels",
        f"`{found.command}`",
        f"{found.drawn} embedded flowers, {found.minutes:g} minutes of training in all. {found.machine}",
        "### At equal quality",
        *(_verdict_text(found, latent) for latent in strongest(found, latent=True)),
        "### What a step and a picture cost",
        _costs(found),
        f"Milliseconds, median (least-most) of rounds in which all took turns: a step of {found.batch} pictures with "
        f"reading them, a picture of 16 at once in {found.num_steps} steps without guidance, decoded and rounded to "
        "bytes. GFLOP are nominal, of one picture. *Grid* is what the network sees.",
        "### Autoencoders",
        _coders(found),
        "The ratio of decoded held-out pictures is what a perfect model of these latents would reach. Held-out "
        f"pictures themselves: {ratios}; the judge is right about {found.judge:.1%} of them.",
        "### Quality against time",
        _curves(found),
        f"{found.samples} samples at each checkpoint, the same seeds and classes for all, {found.num_steps} steps of "
        "DPM-Solver++(2M); ratios are Frechet distances to real pictures over those between real pictures (1 is as "
        f"near as real pictures are), in the spaces {' and '.join(found.spaces)}, of which {first} decides. Accuracy "
        "is that of as many samples with guidance 2, by a classifier of real pictures. Seconds are those of steps and "
        "of waiting for data. A checkpoint on the way has not had its rate lowered yet, so a run that was planned to "
        "end there would be better: this holds for all alike.",
        f"![quality against seconds of training at {found.size} pixels](latents-{found.size}.png)",
        "Solid: models of pixels. Dashed: of latents; the dotted line of the same colour is what decoded held-out "
        "pictures score, the gray one what real pictures do.",
        f"![samples of the last checkpoints at {found.size} pixels, a row for each](latents-{found.size}-samples.png)",
        "The last checkpoints, guidance 2, the same seeds and classes in every row, nothing picked.",
    ]
    return "\n\n".join(parts)


def _verdict_text(found: Found, latent: Contestant) -> str:
    lines = verdicts(found, latent)
    good = all(met for _, met, needed in lines if needed)
    head = f"**{latent.name}: {'a saving at equal quality' if good else 'no saving shown at equal quality'}.**"
    return f"{head}\n\n" + "\n".join(f"* {'yes' if met else '**no**'}: {line}" for line, met, _ in lines)


def _costs(found: Found) -> str:
    base = strongest(found, latent=False)[0].costs
    rows = []
    for c in found.contestants:
        decode = Spread.of(c.costs.decode).text(".2f") if c.costs.decode else "–"
        rows.append(
            [
                c.name,
                f"{c.grid} x {c.grid}",
                f"{c.costs.parameters / 1e6:.2f} M",
                f"{c.costs.step_gflop:.2f}",
                Spread.of(c.costs.step).text(".0f"),
                times(base.step, c.costs.step).text(),
                f"{c.costs.image_gflop:.2f}",
                Spread.of(c.costs.image).text(".1f"),
                decode,
                times(base.image, c.costs.image).text(),
            ]
        )
    head = ["model", "grid", "parameters", "GFLOP, step", "step, ms", "saving", "GFLOP, picture", "picture, ms"]
    return table([*head, "decoding of it", "saving"], rows)


def _coders(found: Found) -> str:
    rows = [
        [
            c.name,
            " x ".join(map(str, c.latent)),
            c.steps,
            f"{c.seconds:.0f}",
            f"{c.encoding:.0f}",
            f"{c.psnr:.2f}",
            *(f"{c.ratios[space]:.2f}" for space in found.spaces),
            f"{c.accuracy:.1%}",
        ]
        for c in found.coders
    ]
    ratios = [f"ratio, {space}" for space in found.spaces]
    head = ["autoencoder", "latent", "steps", "training, s", "encoding once, s", "PSNR, dB", *ratios, "accuracy"]
    return table(head, rows)


def _curves(found: Found) -> str:
    rows = [
        [
            c.name,
            p.step,
            f"{p.seconds:.0f}",
            *(f"{p.ratios[space]:.2f} ± {p.errors[space]:.2f}" for space in found.spaces),
            f"{p.accuracy:.1%}",
        ]
        for c in found.contestants
        for p in c.points
    ]
    return table(["model", "steps", "seconds", *(f"ratio, {space}" for space in found.spaces), "accuracy"], rows)


def page(every: Sequence[Found]) -> str:
    """The whole page."""
    lead = (
        "Two ways to the same flowers: a model of pixels, and one of the latents of an autoencoder trained here. All "
        "networks are the U-Net of `make demo`; a model of pixels sees squares of pixels as one place, so a coarse "
        "grid alone is no privilege of latents. Every model was trained for the same number of seconds, and quality "
        "was measured on the way, so that both can be read where they are equally good."
    )
    return "\n\n".join(["# Latent against pixel at equal quality", lead, *(section(f) for f in every)])


def chart(found: Found) -> Any:
    """Quality and accuracy against seconds of training; a matplotlib figure in the project's style."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, PercentFormatter

    from kakusan.report import style

    figure = Figure(figsize=(10.4, 4.2), facecolor=style.PAPER, layout="constrained")
    space = found.spaces[0]
    one = common.log_axes(figure, f"Frechet ratio, {space}", "seconds of training", "times real pictures", (1, 2, 1))
    one.set_xscale("linear")
    one.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    two = style.style_axes(figure.add_subplot(1, 2, 2), size=9)
    two.set(xlabel="seconds of training")
    two.set_title("Guided samples of the right class", fontsize=10, color=style.INK, loc="left")
    two.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for contestant, colour in zip(found.contestants, style.SERIES, strict=False):
        x = [p.seconds for p in contestant.points]
        y = [p.ratios[space] for p in contestant.points]
        line = "-" if contestant.latent is None else "--"
        one.errorbar(
            x,
            y,
            yerr=[p.errors[space] for p in contestant.points],
            color=colour,
            linestyle=line,
            marker="o",
            markersize=4,
            linewidth=1.6,
            elinewidth=0.8,
            label=contestant.name,
        )
        two.plot(x, [p.accuracy for p in contestant.points], color=colour, linestyle=line, marker="o", markersize=4)
        if contestant.latent is not None:
            floor = found.coder(contestant).ratios[space]
            one.axhline(floor, color=colour, linewidth=0.9, linestyle=":")
    one.axhline(1.0, color=style.MUTED, linewidth=0.9)
    two.axhline(found.judge, color=style.MUTED, linewidth=0.9)
    one.legend(fontsize=8, frameon=False, loc="best")
    for axes in (one, two):
        axes.set_xlim(left=0.0)
    return figure
