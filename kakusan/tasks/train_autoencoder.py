"""`kakusan train-autoencoder`: an autoencoder of one's own pictures, with a page about its health."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import torch

from kakusan.autoencoders.folder import read
from kakusan.autoencoders.health import Health
from kakusan.config import DataSettings, to_toml
from kakusan.report.autoencoder import autoencoder_page, reconstruction_sheet
from kakusan.report.png import save_png
from kakusan.run_folder import RunFolder
from kakusan.train.autoencoder import AutoencoderRun, AutoencoderTraining, shown
from kakusan.train.autoencoder_settings import AutoencoderConfig
from kakusan.train.sources import open_parts
from kakusan.train.trainer import TrainStep

SHOWN = 8


def train_autoencoder(
    config: AutoencoderConfig,
    out: Path,
    *,
    say: Callable[[str], None] = print,
    on_step: Callable[[TrainStep, AutoencoderRun], None] | None = None,
) -> Health:
    """Train, or go on with a training, and write its folder and page; returns the last measurement.

    Args:
        config: what to train, on what and how.
        out: the folder, which keeps the configuration as `config.toml`.
        say: takes lines for people.
        on_step: called after every step.

    Raises:
        ValueError: a place that is taken, data that cannot be used, or settings other than those of the run there.
    """
    data, how = DataSettings(**vars(config.data)), AutoencoderTraining.of(config)
    training, held_out = open_parts(data, seed=how.seed, say=say)
    say(f"{len(training)} pictures ({len(held_out)} held out)")
    before = torch.get_num_threads()
    try:
        run = AutoencoderRun(
            how,
            training,
            held_out,
            out,
            device=config.run.device,
            threads=config.run.threads,
            precision=config.run.precision,
            config=to_toml(config),
            say=say,
            on_step=on_step,
        )
        health = run.run()
        write_page(run, health, data)
    finally:
        torch.set_num_threads(before)
    say(f"model   {RunFolder(out).latest()}")
    say(f"report  {out / 'report.html'}")
    say(f"next    {_next(data, out)}")
    return health


def _next(data: DataSettings, out: Path) -> str:
    """The command that trains on the latents."""
    said = {"--size": data.size, "--num": data.num, "--autoencoder": out, "--out": "runs/latent"}
    options = [part for name, value in said.items() if value is not None for part in (name, str(value))]
    return shlex.join(["kakusan", "train", "--data", data.source, *(["--flip"] if data.flip else []), *options])


@torch.no_grad()
def write_page(run: AutoencoderRun, health: Health, data: DataSettings) -> Path:
    """The page of a training and the sheet of its reconstructions, in its folder."""
    stored = read(run.folder.path)
    autoencoder, spec = stored.autoencoder, run.training.spec
    pictures = run.held_out if len(run.held_out) else run.training
    x = shown(pictures, SHOWN)
    z = autoencoder.encode(x)
    originals, decoded = spec.to_stored(x).numpy(), spec.to_stored(autoencoder.decode(z, size=spec.size)).numpy()
    latents = z.numpy() if z.shape[1] <= 8 else None
    sheet = reconstruction_sheet(list(originals), list(decoded), latents)
    save_png(sheet, run.folder.path / "reconstructions.png")
    shape = autoencoder.latent_shape(spec.shape)
    facts = {
        "kind": run.how.kind,
        "pictures": len(run.training),
        "picture": " x ".join(map(str, spec.shape)),
        "latent": " x ".join(map(str, shape)),
        "PSNR, dB": health.psnr,
        "dead channels": len(health.dead),
        "steps": run.trainer.step,
        "minutes": round(run.elapsed() / 60.0, 1),
        "weight of the KL": run.how.losses.bottleneck if health.kl else "none",
        "equivariance": run.how.losses.equivariance,
    }
    path = run.folder.path / "report.html"
    commands = (
        f"{_next(data, run.folder.path)}\n\n"
        f'import kakusan.autoencoders\nautoencoder = kakusan.autoencoders.load("{run.folder.path}")\n'
        "z = autoencoder.encode(x)\nx = autoencoder.decode(z)"
    )
    autoencoder_page(path, facts=facts, sheet=sheet, records=run.records(), health=health.record(), commands=commands)
    return path
