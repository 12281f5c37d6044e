"""Compress every held-out digit, decode it, and set the rate beside the model's bound.

    python benchmarks/digits_likelihood.py --only vdm
    python benchmarks/codec.py runs/digits-likelihood/vdm

Writes docs/results/codec.md.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One file: how it was made and what it cost. Rates are bits per value."""

    steps: int
    bins: int
    rate: float
    without_start: float
    bound: float
    error: float
    size: int
    overhead: int
    plain: int
    batch: int
    encode: float
    decode: float


def measure(pipeline, pictures, *, steps: int, bins: int, batch: int) -> Row:
    """Compress, decode, compare.

    Raises:
        RuntimeError: a picture came back different.
    """
    import torch

    from kakusan import codec

    began = time.perf_counter()
    file = codec.compress(pipeline, pictures, steps=steps, bins=bins, batch=batch)
    middle = time.perf_counter()
    again = codec.decompress(pipeline, file)
    ended = time.perf_counter()
    if not torch.equal(again, pictures):
        raise RuntimeError(f"{int((again != pictures).flatten(1).any(1).sum())} pictures came back different")
    found = codec.summary(pipeline, file)
    bound = codec.bound(pipeline, file, pictures).total.numpy() / (math.log(2.0) * found.values)
    count = len(pictures)
    return Row(
        steps,
        bins,
        found.rate,
        found.rate_without_start,
        float(bound.mean()),
        float(bound.std(ddof=1) / math.sqrt(count)),
        len(file),
        (found.file_bits - found.coded_bits) // 8,
        found.plain,
        found.batch,
        (middle - began) / count,
        (ended - middle) / count,
    )


def report(rows: Sequence[Row], other: dict[str, int], *, count: int, values: int, model: str) -> str:
    """The result as a Markdown page."""
    lines = "\n".join(
        f"| {r.steps} | {r.bins} | {r.bound:.4f} ± {r.error:.4f} | {r.without_start:.4f} | "
        f"{100 * (r.without_start / r.bound - 1):+.1f} % | {r.rate:.4f} | {100 * (r.rate / r.bound - 1):+.1f} % | "
        f"{r.size} | {r.overhead} | {r.plain} | {r.encode:.2f} | {r.decode:.2f} |"
        for r in rows
    )
    plain = "\n".join(f"| {name} | {8 * size / (count * values):.4f} | {size} |" for name, size in other.items())
    return f"""# Lossless codec

`python benchmarks/codec.py RUN` compresses all {count} held-out digits (8 x 8, 17 levels) with a trained model and
decodes them again. Rates are in bits per value. **Every picture came back bit for bit**; the program stops otherwise.

Model: {model}.

| steps | bins | bound | model's part | to bound | all told | to bound | bytes | header | plain | encode | decode |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
{lines}

- **bound**: prior + reconstruction + diffusion of the same pictures on the same grid with the same variances, by other
  random draws (± one standard error over the pictures).
- **model's part**: the coder's words less the plain start, over the pictures that the model coded. It is one random
  path through the latents, so it differs from the bound by about as much as the ± says.
- **all told**: every byte of the file over all pictures, header, checksum and plain start included.
- **header**: bytes of the header and the checksum.
- **plain**: pictures coded with equal probabilities ({math.log2(17):.3f} bits/dim). Their bits are the random bits that
  bits-back coding begins with, so no others are stored.
- **encode**, **decode**: seconds a picture; encoding includes the choice of the grid.

| the same pixels by | bits/dim | bytes |
|---|---:|---:|
{plain}

{platform.machine()}, Python {platform.python_version()}, one thread, on a machine that was busy with other work.
"""


def main() -> int:
    """Run it and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--bins", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "codec.md")
    options = parser.parse_args()

    from kakusan import runtime
    from kakusan.codec.usual import others
    from kakusan.data.source import open_data
    from kakusan.pipeline import load

    runtime.tune(threads=options.threads)
    pipeline = load(options.run)
    data = open_data("digits:held-out")
    pictures = data.read(np.arange(len(data)))
    rows = []
    for steps in options.steps:
        rows.append(measure(pipeline, pictures, steps=steps, bins=options.bins, batch=options.batch))
        print(rows[-1], flush=True)
    parameters = sum(p.numel() for p in pipeline.model.parameters())
    model = f"{options.run}, weights {pipeline.weights}, {parameters} parameters"
    page = report(rows, others(pictures), count=len(pictures), values=pictures[0].numel(), model=model)
    print(page)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
