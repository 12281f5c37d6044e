"""Factor 4 against factor 8: autoencoders of equal training on pictures of 64 pixels, measured on held-out ones.

    python benchmarks/autoencoders.py [--minutes 4 | --steps 300] [--data FLOWERS_FOLDER] [--write]

Each is trained alike on the embedded flowers and, where a folder is given, on its pictures. Only numbers are written.
PSNR is on held-out pictures. Frechet distances are between decoded held-out pictures and training pictures in the
space "random", over that between training pictures and training pictures (1: as near as real pictures are).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import common
import torch

from kakusan.autoencoders import read
from kakusan.autoencoders.health import measure_health
from kakusan.config import DataSettings
from kakusan.data.source import Pictures, subset
from kakusan.metrics.distance import Splits
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.frechet import Frechet
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces import open_spaces
from kakusan.train.autoencoder import AutoencoderRun, AutoencoderTraining, shown
from kakusan.train.sources import open_parts

MOST = 256


@dataclass(frozen=True)
class Contestant:
    """One autoencoder."""

    name: str
    how: AutoencoderTraining


@dataclass(frozen=True)
class Row:
    """What one reached."""

    data: str
    name: str
    numbers: int
    steps: int
    seconds: float
    psnr: float
    frechet: float
    dead: str
    encode_ms: float
    decode_ms: float

    def cells(self) -> list[str]:
        return [
            self.data,
            self.name,
            str(self.numbers),
            str(self.steps),
            f"{self.seconds:.0f}",
            f"{self.psnr:.2f}",
            f"{self.frechet:.2f}",
            self.dead,
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
    "Frechet ratio",
    "dead channels",
    "encode, ms",
    "decode, ms",
)


def contestants(length: dict[str, float], names: list[str]) -> list[Contestant]:
    """What is compared."""
    every = {
        "KL, factor 4, 4 channels": {"factor": 4, "latent_channels": 4},
        "KL, factor 8, 4 channels": {"factor": 8, "latent_channels": 4},
        "KL, factor 8, 16 channels": {"factor": 8, "latent_channels": 16},
        "VQ, factor 4, 4 channels, 1024 codes": {"kind": "vq", "factor": 4, "latent_channels": 4},
    }
    chosen = [name for name in every if not names or any(part in name for part in names)]
    return [Contestant(name, AutoencoderTraining(**every[name], **length)) for name in chosen]  # type: ignore[arg-type]


def frechet_ratio(training: Pictures, decoded: PictureSet) -> float:
    """The distance of decoded held-out pictures to training pictures over that of training pictures to each other."""
    # No picture that was decoded is among those that it is compared with.
    reference = Reference.of(training, subset(training, []), most=2 * MOST)
    (space,) = open_spaces(["random"], reference)
    evaluation = Evaluation(reference, [space], [Frechet()], Splits())
    count = min(len(decoded), reference.most())
    (record,) = evaluation.measure(decoded.take(torch.arange(count)))
    assert record.null is not None
    return float(record.value / record.null)


def milliseconds(run: object, count: int) -> float:
    """Of one picture, the median of three batches."""
    assert callable(run)
    return 1e3 * common.Spread.of(common.seconds(run, repeats=3)).median / count


@torch.no_grad()
def measured(label: str, each: Contestant, data: DataSettings, folder: Path, threads: int | None) -> Row:
    """Train one and measure it."""
    training, held_out = open_parts(data, seed=0)
    run = AutoencoderRun(
        each.how, training, held_out, folder, threads=threads, say=lambda line: print("  " + line, flush=True)
    )
    with torch.enable_grad():
        run.run()
    if run.stop is not None:
        raise SystemExit(f"stopped by {run.stop}")
    autoencoder = read(folder).autoencoder
    x = shown(held_out, MOST)
    health = measure_health(autoencoder, x)
    made = torch.cat([autoencoder.decode(autoencoder.encode(part), size=x.shape[2:]) for part in x.split(64)])
    decoded = PictureSet.sampled(made, training.spec)
    z = autoencoder.encode(x[:16])
    shape = autoencoder.latent_shape(x.shape[1:])
    return Row(
        data=label,
        name=each.name,
        numbers=int(torch.tensor(shape).prod()),
        steps=run.trainer.step,
        seconds=run.elapsed(),
        psnr=health.psnr,
        frechet=frechet_ratio(training, decoded),
        dead=f"{len(health.dead)} of {shape[0]}",
        encode_ms=milliseconds(lambda: autoencoder.encode(x[:16]), 16),
        decode_ms=milliseconds(lambda: autoencoder.decode(z), 16),
    )


PAGE = """# Autoencoders: factor 4 against factor 8

Trained alike and measured on pictures that were held out, at 64 x 64 pixels. {machine}

{table}

PSNR is a mean over {most} held-out pictures at most. The Frechet ratio is the distance of decoded held-out pictures to
training pictures over that of training pictures to each other, in the space "random": 1 is as near as real pictures
are. A channel is dead when its KL is below 0.01 nats or when pictures lose less than 0.05 dB without it. Encoding and
decoding are for one picture of a batch of 16; seconds are of the wall clock and include the measurements on the way.

{chosen}

```
{command}
```
"""


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--data", help="a folder of real pictures, of which only numbers are written")
    parser.add_argument("--num", type=int, default=2000, help="embedded flowers that are drawn")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of those to run")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    length = {"steps": given.steps} if given.steps else {"minutes": given.minutes}
    sources = {"embedded flowers": DataSettings(source="flowers", size=64, num=given.num)}
    if given.data:
        sources["real flowers"] = DataSettings(source=given.data, size=64, held_out=0.1)
    rows: list[Row] = []
    long = f"--steps {given.steps}" if given.steps else f"--minutes {given.minutes:g}"
    where = " --data FLOWERS_FOLDER" if given.data else ""
    only = "".join(f" '{part}'" for part in given.only)
    only = f" --only{only}" if only else ""
    command = f"python benchmarks/autoencoders.py {long} --num {given.num}{where}{only} --write"
    with tempfile.TemporaryDirectory() as place:
        for label, data in sources.items():
            for i, each in enumerate(contestants(length, given.only)):
                print(f"{label}: {each.name}", flush=True)
                rows.append(measured(label, each, data, Path(place) / f"{label}-{i}", given.threads))
                page = PAGE.format(
                    machine=common.machine(torch.get_num_threads()),
                    table=common.table(HEAD, [row.cells() for row in rows], texts=2),
                    most=MOST,
                    chosen=chosen_text(rows),
                    command=command,
                )
                # After each one, so that a run that is stopped leaves what it found.
                common.finish(page, common.RESULTS / "autoencoders.md" if given.write else None)


def chosen_text(rows: list[Row]) -> str:
    """Which factor the figures favour."""
    lines = []
    for data in dict.fromkeys(row.data for row in rows):
        own = [row for row in rows if row.data == data]
        best, near = max(own, key=lambda row: row.psnr), min(own, key=lambda row: row.frechet)
        lines.append(
            f"On {data} the highest PSNR is that of {best.name} ({best.psnr:.2f} dB), the nearest to real pictures is "
            f"{near.name} (ratio {near.frechet:.2f})."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
