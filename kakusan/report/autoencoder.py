"""The page of an autoencoder's training: reconstructions beside their originals, curves, and the latent's health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kakusan.report.curves import Chart, held_out_curve, loss_curve
from kakusan.report.grids import grid
from kakusan.report.page import Page
from kakusan.report.pictures import Picture

_SHADES = 3.0
"""Deviations of a latent from black to middle gray, and from there to white."""


def reconstruction_sheet(
    originals: Sequence[Picture], decoded: Sequence[Picture], latents: npt.NDArray[np.floating] | None = None
) -> Image.Image:
    """Pictures above what became of them; below, the channels of their latents as gray pictures.

    Args:
        originals: N pictures.
        decoded: N pictures.
        latents: (N, C', H, W) standardised: the mean is middle gray.

    Raises:
        ValueError: unequal numbers.
    """
    if len(originals) != len(decoded) or (latents is not None and len(latents) != len(originals)):
        raise ValueError(f"{len(originals)} pictures and {len(decoded)} decoded ones do not go together")
    cells: list[Picture] = [*originals, *decoded]
    rows = ["original", "decoded"]
    if latents is not None:
        height = as_height(originals[0])
        scale = max(1, height // latents.shape[2])
        gray = np.clip(127.5 * (1.0 + latents / _SHADES), 0.0, 255.0).round().astype(np.uint8)
        for channel in range(gray.shape[1]):
            wide = gray[:, channel].repeat(scale, 1).repeat(scale, 2)
            cells += list(wide)
            rows.append(f"latent {channel}")
    return grid(cells, columns=len(originals), row_labels=rows)


def as_height(picture: Picture) -> int:
    """Pixels of a picture from top to bottom."""
    return picture.height if isinstance(picture, Image.Image) else picture.shape[-2]


def curves_of(records: Sequence[Mapping[str, Any]]) -> list[tuple[Chart, str]]:
    """The charts of a training, each with what it shows."""
    steps = [r for r in records if r.get("kind") == "step"]
    found: list[tuple[Chart, str]] = []
    if steps:
        keys = {"reconstruction": "reconstruction", "perceptual": "perceptual", "cost": "bottleneck"}
        present = {key: name for key, name in keys.items() if any(r.get(key, 0.0) > 0.0 for r in steps)}
        if present:
            chart = loss_curve(steps, keys=present, title="Parts of the loss")
            found.append((chart, "Means over a batch; the bottleneck's with its weight."))
    judged = [r for r in steps if "margin" in r]
    if len(judged) > 1:
        keys = {"margin": "margin", "balance": "balance"}
        chart = loss_curve(judged, keys=keys, title="Discriminator", y="margin, balance")
        found.append((chart, "Margin: score of real patches less that of decoded ones. Balance: ratio of gradients."))
    health = [r for r in records if r.get("kind") == "health"]
    if len(health) > 1:
        error, name = [float(r["absolute"]) for r in health], "Error on held-out pictures"
        chart = held_out_curve([float(r["step"]) for r in health], None, error, title=name, y="mean absolute error")
        found.append((chart, "In model units (black to white is 2), averaged weights."))
        channels = range(len(health[0].get("kl", [])))
        if channels:
            lines = [{"step": r["step"], **{f"c{i}": r["kl"][i] for i in channels}} for r in health]
            shown = channels[:5]
            keys = {f"c{i}": f"channel {i}" for i in shown}
            chart = loss_curve(lines, keys=keys, title="KL of each channel", y="nats")
            more = f" The first {len(shown)} of {len(channels)} channels." if len(channels) > len(shown) else ""
            found.append((chart, "Nats for one element of the latent; a channel near 0 says nothing." + more))
    return found


def autoencoder_page(
    path: Path,
    *,
    facts: Mapping[str, object],
    sheet: Image.Image,
    records: Sequence[Mapping[str, Any]],
    health: Mapping[str, Any],
    commands: str,
) -> None:
    """Write the page of a training.

    Args:
        path: of the file.
        facts: short ones, for the top.
        sheet: reconstructions.
        records: of the training's log.
        health: the last measurement, plain values.
        commands: what to do next.
    """
    page = Page("Autoencoder", f"Trained in {path.parent.name}: pictures, their latents, and back.")
    page.facts(facts)
    page.section("Held-out pictures and what becomes of them")
    page.picture(sheet, "Originals, decoded pictures, and the channels of the latent; middle gray is their mean.")
    page.section("Training")
    for chart, caption in curves_of(records):
        page.figure(chart, caption)
    page.section("The latent, channel by channel")
    kl, lost, dead = health.get("kl", []), health.get("lost", []), set(health.get("dead", []))
    noise = health.get("noise", [])
    rows = [
        {
            "channel": i,
            **({"KL, nats per element": float(kl[i])} if kl else {}),
            **({"noise, deviations": float(noise[i])} if noise else {}),
            **({"PSNR lost without it, dB": float(lost[i])} if lost else {}),
            "dead": "yes" if i in dead else "no",
        }
        for i in range(max(len(kl), len(lost)))
    ]
    if rows:
        page.table(rows)
    low, high = health["latent_range"]
    said = [f"Standardised latents of held-out pictures run from {low:+.2f} to {high:+.2f}."]
    if noise:
        said.append(
            "The noise is how unsure the encoder is, in deviations of the channel. The KL also counts how large the "
            "latents are before they are standardised, which no diffusion model sees: read the noise beside it."
        )
    if health.get("forgives") is not None:
        said.append(f"Latents that are off by a tenth of their deviation cost {health['forgives']:.2f} dB of the PSNR.")
    if health.get("codes_used") is not None:
        said.append(
            f"They use {health['codes_used']:.1%} of the codebook, with a perplexity of {health['perplexity']:.0f}."
        )
    if health.get("turned") is not None:
        said.append(
            f"A picture turned by a quarter has a latent that differs from the turned latent by {health['turned']:.2f} "
            "deviations."
        )
    if health.get("halved") is not None:
        said.append(f"For a picture of half the size it is {health['halved']:.2f}; 0 would be equivariant.")
    page.text(" ".join(said))
    page.section("Use it")
    page.code(commands)
    page.write(path)
