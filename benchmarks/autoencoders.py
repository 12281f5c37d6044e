"""Which autoencoder: factor 4 or 8, weights of the KL and equivariance, at equal training time, 64 x 64 pixels.

    python benchmarks/autoencoders.py --minutes 4 --model-minutes 4 --write
    python benchmarks/autoencoders.py --kl 0.001 0.01 0.1 --equivariance 0 0.5 --only "factor 4, 4" "8, 16" --write
    python benchmarks/autoencoders.py --data FLOWERS_FOLDER --write

Each is trained alike on the embedded flowers and, where a folder is given, on its pictures. A good autoencoder is one
whose latents a diffusion model learns well, so one and the same small model is then trained on the latents of each, for
the same time, and its samples are measured too. Only numbers are written. PSNR is on held-out pictures; Frechet ratios
are distances to training pictures over those between training pictures (1: as near as real pictures are). What was
found is kept in `--out`, and the same command goes on there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import common
import torch

from kakusan.autoencoders import read
from kakusan.autoencoders.health import measure_health
from kakusan.autoencoders.losses import AutoencoderLosses
from kakusan.config import DataSettings, TrainConfig, merge
from kakusan.data.source import subset
from kakusan.files import write_text
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.watching import Watcher, WatchPlan, scaled
from kakusan.pipeline import load
from kakusan.train.autoencoder import AutoencoderRun, AutoencoderTraining, shown
from kakusan.train.previews import draw_watched
from kakusan.train.run import TrainingRun
from kakusan.train.sources import open_parts

MOST = 256
SHAPES: dict[str, dict[str, Any]] = {
    "KL, factor 4, 4 channels": {"factor": 4, "latent_channels": 4},
    "KL, factor 8, 4 channels": {"factor": 8, "latent_channels": 4},
    "KL, factor 8, 16 channels": {"factor": 8, "latent_channels": 16},
    "VQ, factor 4, 4 channels, 1024 codes": {"kind": "vq", "factor": 4, "latent_channels": 4},
}


@dataclass(frozen=True)
class Contestant:
    """One autoencoder."""

    name: str
    how: AutoencoderTraining


@dataclass(frozen=True)
class Row:
    """What one reached.

    Args:
        data: what on.
        name: of the autoencoder.
        factor: pixels a side of one place.
        numbers: in a latent.
        steps: of its training.
        seconds: likewise.
        psnr: decibels on held-out pictures.
        decoded: Frechet ratio of decoded held-out pictures.
        kl: least and most nats of a channel; empty without a KL.
        noise: least and most deviations that the encoder is unsure of; empty without.
        forgives: decibels that latents cost which are off by a tenth of their deviation.
        dead: channels that say nothing.
        channels: of the latent.
        turned: error of the latents of turned pictures, in deviations; None where that cannot be.
        encode_ms: for one picture of a batch.
        decode_ms: likewise.
        samples: Frechet ratio of samples of a model of the latents; None where none was trained.
        samples_error: its standard error.
        model_steps: that this model made in its time.
    """

    data: str
    name: str
    factor: int
    numbers: int
    steps: int
    seconds: float
    psnr: float
    decoded: float
    kl: Sequence[float]
    noise: Sequence[float]
    forgives: float
    dead: int
    channels: int
    turned: float | None
    encode_ms: float
    decode_ms: float
    samples: float | None = None
    samples_error: float | None = None
    model_steps: int = 0

    def cells(self) -> list[str]:
        """For the table."""
        return [
            self.data,
            self.name,
            str(self.numbers),
            str(self.steps),
            f"{self.seconds:.0f}",
            f"{self.psnr:.2f}",
            f"{self.decoded:.2f}",
            "–" if self.samples is None else f"{self.samples:.2f} ± {self.samples_error:.2f}",
            str(self.model_steps or "–"),
            ends(self.kl),
            ends(self.noise),
            f"{self.forgives:.2f}",
            "–" if self.turned is None else f"{self.turned:.2f}",
            f"{self.dead} of {self.channels}",
            f"{self.encode_ms:.1f}",
            f"{self.decode_ms:.1f}",
        ]


HEAD = (
    "pictures",
    "autoencoder",
    "numbers in a latent",
    "steps",
    "seconds",
    "PSNR, dB",
    "ratio, decoded",
    "ratio, samples",
    "steps of the model",
    "KL, nats",
    "noise, deviations",
    "forgives, dB",
    "turned",
    "dead channels",
    "encode, ms",
    "decode, ms",
)


def ends(values: Sequence[float]) -> str:
    """Least and most of some numbers."""
    return f"{min(values):.2g} to {max(values):.2g}" if values else "–"


def contestants(
    length: dict[str, float], names: Sequence[str], *, kl: Sequence[float], equivariance: Sequence[float]
) -> list[Contestant]:
    """What is compared: every shape with every weight and share."""
    found = []
    for name, shape in SHAPES.items():
        if names and not any(part in name for part in names):
            continue
        for weight in kl if shape.get("kind", "kl") == "kl" else kl[:1]:
            for share in equivariance:
                more = (f", weight {weight:g}" if len(kl) > 1 and name.startswith("KL") else "") + (
                    f", equivariance {share:g}" if len(equivariance) > 1 else ""
                )
                losses = AutoencoderLosses(bottleneck=weight, equivariance=share)
                found.append(Contestant(name + more, AutoencoderTraining(**shape, **length, losses=losses)))  # type: ignore[arg-type]
    return found


def known(folder: Path, part: str, make: Callable[[], Row]) -> Row:
    """What was found before, or is found now."""
    path = folder.with_name(f"{folder.name}{part}.json")
    if not path.is_file():
        write_text(path, json.dumps(asdict(make())) + "\n")
    return Row(**json.loads(path.read_text(encoding="utf-8")))


def watcher_of(data: DataSettings, options: argparse.Namespace, folder: Path) -> Watcher:
    """Feature spaces and real pictures; no held-out picture that is decoded is among those."""
    training = open_parts(data, seed=0)[0]
    plan = WatchPlan(num=options.samples, num_steps=10, spaces=tuple(options.spaces), distances=("frechet",))
    return Watcher(training, subset(training, []), plan, folder=folder, say=_indented)


def ratio(watcher: Watcher, pictures: PictureSet) -> tuple[float, float]:
    """(Frechet ratio in the first space, its standard error)."""
    (record, *_) = watcher.measure(pictures, step=0, model=pictures.hash).records
    return scaled(record)[:2]


def milliseconds(run: object, count: int) -> float:
    """Of one picture, the median of three batches."""
    assert callable(run)
    return 1e3 * common.Spread.of(common.seconds(run, repeats=3)).median / count


def measured(
    label: str,
    each: Contestant,
    data: DataSettings,
    folder: Path,
    watching: Callable[[], Watcher],
    options: argparse.Namespace,
) -> Row:
    """Train one and measure it."""
    training, held_out = open_parts(data, seed=0)
    run = AutoencoderRun(each.how, training, held_out, folder, threads=options.threads, say=_indented)
    run.run()
    if run.stop is not None:
        raise SystemExit(f"stopped by {run.stop}; the same command goes on")
    autoencoder = read(folder).autoencoder
    x = shown(held_out, MOST)
    health = measure_health(autoencoder, x)
    with torch.no_grad():
        made = torch.cat([autoencoder.decode(autoencoder.encode(part), size=x.shape[2:]) for part in x.split(64)])
        z = autoencoder.encode(x[:16])
    decoded, watcher = PictureSet.sampled(made, training.spec), watching()
    shape = autoencoder.latent_shape(x.shape[1:])
    row = Row(
        data=label,
        name=each.name,
        factor=each.how.factor,
        numbers=int(torch.tensor(shape).prod()),
        steps=run.trainer.step,
        seconds=run.elapsed(),
        psnr=health.psnr,
        decoded=ratio(watcher, decoded.take(range(min(len(decoded), watcher.num))))[0],
        kl=ends_of(health.kl),
        noise=ends_of(health.noise),
        forgives=health.forgives,
        dead=len(health.dead),
        turned=health.turned,
        encode_ms=milliseconds(torch.no_grad()(lambda: autoencoder.encode(x[:16])), 16),
        decode_ms=milliseconds(torch.no_grad()(lambda: autoencoder.decode(z)), 16),
        channels=shape[0],
    )
    return row


def with_model(
    row: Row, data: DataSettings, folder: Path, watching: Callable[[], Watcher], options: argparse.Namespace
) -> Row:
    """The row with what a small model of the latents drew, after the same time on each."""
    model = {"width": options.width, "multipliers": [1, 2, 2], "depth": 1, "attention_levels": []}
    run = {"minutes": options.model_minutes, "batch": 32, "threads": options.threads, "watch": 0, "previews": 0}
    optim = {"optimizer": "muon", "rate": 1e-2, "warmup": 80, "decay": 0.5}
    config = merge(TrainConfig(), {"model": model, "optim": optim, "run": {**run, "snapshots": 0, "checkpoints": 0}})
    config = dataclasses.replace(config, data=dataclasses.replace(data, autoencoder=str(folder)))
    out = folder.parent / f"{folder.name}-model"
    training = TrainingRun(config, out, say=_indented)
    training.run()
    if training.stop is not None:
        raise SystemExit(f"stopped by {training.stop}; the same command goes on")
    pipeline, watcher = load(out), watching()
    drawn = draw_watched(
        pipeline.model,
        pipeline.facts,
        None,
        watcher.labels(),
        plan=watcher.plan,
        num=watcher.num,
        batch=64,
        origin={"model": pipeline.model_hash, "weights": pipeline.weights},
    )
    value, error = ratio(watcher, drawn)
    return dataclasses.replace(row, samples=value, samples_error=error, model_steps=training.trainer.step)


def ends_of(values: Sequence[float]) -> list[float]:
    """Least and most, for the record."""
    return [min(values), max(values)] if values else []


PAGE = """# Which autoencoder

Trained alike and measured on pictures that were held out, at {size} x {size} pixels. {machine}

{table}

PSNR is a mean over {most} held-out pictures at most. Ratios are Frechet distances to training pictures over those
between training pictures, in the space "{space}": 1 is as near as real pictures are. *Samples* are {samples} of one
and the same small diffusion model (U-Net of width {width} on the grid of the latents), trained for {model_minutes:g}
minutes on the latents of each. The KL counts how large raw latents are as well; *noise* is how unsure the encoder is,
in deviations of the standardised channel, and *forgives* what latents cost that are off by a tenth of their deviation.
*Turned*: how far the latent of a turned picture is from the turned latent. A channel is dead when its KL is below 0.01
nats or when pictures lose less than 0.05 dB without it. Encoding and decoding are for one picture of a batch of 16;
seconds are of the wall clock and include the measurements on the way.

{chosen}

```
{command}
```
"""


def _indented(line: str) -> None:
    print("  " + line, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="of each autoencoder")
    parser.add_argument("--steps", type=int, help="of each autoencoder, in place of minutes")
    parser.add_argument("--model-minutes", type=float, default=2.0, help="of the model on its latents; 0 trains none")
    parser.add_argument("--kl", type=float, nargs="+", default=[1e-2], help="weights of the KL")
    parser.add_argument("--equivariance", type=float, nargs="+", default=[0.0], help="shares of turned steps")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--data", help="a folder of real pictures, of which only numbers are written")
    parser.add_argument("--num", type=int, default=2000, help="embedded flowers that are drawn")
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--spaces", nargs="+", default=["self-supervised"], help="of which the first is shown")
    parser.add_argument("--width", type=int, default=48, help="of the model on the latents")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of those to run")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("/tmp/kakusan-autoencoders"), help="where everything is kept")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(argv)
    length = {"steps": given.steps} if given.steps else {"minutes": given.minutes}
    sources = {"embedded flowers": DataSettings(source="flowers", size=given.size, num=given.num)}
    if given.data:
        sources["real flowers"] = DataSettings(source=given.data, size=given.size, held_out=0.1)
    rows: list[Row] = []
    for label, data in sources.items():
        # Other lengths and data are other runs.
        told = f"{label} {given.size} {given.num} {length} {given.model_minutes:g}"
        place = given.out / "".join(c if c.isalnum() else "-" for c in told)
        place.mkdir(parents=True, exist_ok=True)
        watching = cache(partial(watcher_of, data, given, place / "spaces"))
        for each in contestants(length, given.only, kl=given.kl, equivariance=given.equivariance):
            print(f"{label}: {each.name}", flush=True)
            folder = place / each.name.replace(", ", "-").replace(" ", "-").replace(".", "_")
            # An autoencoder that is opened again is stored again under another hash, and its model would lose its data.
            row = known(folder, "", partial(measured, label, each, data, folder, watching, given))
            if given.model_minutes:
                row = known(folder, "-model", partial(with_model, row, data, folder, watching, given))
            rows.append(row)
            # After each one, so that a run that is stopped leaves what it found.
            common.finish(page(rows, given), common.RESULTS / "autoencoders.md" if given.write else None)


def page(rows: Sequence[Row], given: argparse.Namespace) -> str:
    """The page of what is there."""
    long = f"--steps {given.steps}" if given.steps else f"--minutes {given.minutes:g}"
    only = " --only" + "".join(f" '{part}'" for part in given.only) if given.only else ""
    weights = " --kl " + " ".join(f"{w:g}" for w in given.kl) if len(given.kl) > 1 else ""
    shares = " --equivariance " + " ".join(f"{s:g}" for s in given.equivariance) if len(given.equivariance) > 1 else ""
    where = (" --data FLOWERS_FOLDER" if given.data else "") + (f" --size {given.size}" if given.size != 64 else "")
    return PAGE.format(
        size=given.size,
        machine=common.machine(torch.get_num_threads()),
        table=common.table(HEAD, [row.cells() for row in rows], texts=2),
        most=MOST,
        space=given.spaces[0],
        samples=given.samples,
        width=given.width,
        model_minutes=given.model_minutes,
        chosen=chosen_text(rows),
        command=f"python benchmarks/autoencoders.py {long} --model-minutes {given.model_minutes:g} --num {given.num}"
        f"{weights}{shares}{where}{only} --write",
    )


def chosen_text(rows: Sequence[Row]) -> str:
    """Which one each figure favours, and which factor is taken: by samples, where they were measured, among those
    without dead channels."""
    lines = []
    for data in dict.fromkeys(row.data for row in rows):
        own = [row for row in rows if row.data == data]
        best, near = max(own, key=lambda row: row.psnr), min(own, key=lambda row: row.decoded)
        line = (
            f"On {data} the highest PSNR is that of {best.name} ({best.psnr:.2f} dB); decoded pictures are nearest to "
            f"real ones with {near.name} (ratio {near.decoded:.2f})"
        )
        drawn = [(row.samples, row) for row in own if row.samples is not None and not row.dead]
        if not drawn:
            lines.append(line + ". No samples were measured of one without dead channels, so no factor is chosen.")
            continue
        value, taken = min(drawn, key=lambda pair: pair[0])
        others = [(v, row) for v, row in drawn if row.factor != taken.factor]
        line += (
            f"; samples of the same model after the same time are nearest with {taken.name} ({value:.2f}). **Chosen: "
            f"factor {taken.factor}, by the ratio of samples**"
        )
        if others:
            second, other = min(others, key=lambda pair: pair[0])
            error = ((taken.samples_error or 0.0) ** 2 + (other.samples_error or 0.0) ** 2) ** 0.5
            sure = "" if second - value > 2.0 * error else ", which is within two standard errors"
            line += f", against {second:.2f} for the best of factor {other.factor} ({other.name}){sure}"
        lines.append(line + ".")
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()
