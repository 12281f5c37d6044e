"""Restoration by training against restoration by a posterior and against interpolation, on held-out embedded flowers.

    python benchmarks/trained_restoration.py --base runs/demo [--minutes 5] [--work runs/trained-restoration] [--write]

For every pair a run is trained that starts from the base model (`--init-from`) and sees the pictures it starts from;
then held-out flowers are made small or gray and brought back by that model, by a posterior sampler with the base model
(which is trained for nothing of this), and by interpolation. Both models know the class. Runs in --work are not trained
again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from common import RESULTS, finish, machine, table
from torch import Tensor

from kakusan.cli import main as command
from kakusan.metrics.fidelity import psnr, ssim
from kakusan.operators import Downsample, Gray, Measurement, Operator
from kakusan.pipeline import Pipeline, load
from kakusan.posteriors import DiffPIR
from kakusan.report.grids import grid
from kakusan.report.png import save_png
from kakusan.run_folder import RunFolder
from kakusan.tasks.own_pictures import counted
from kakusan.tasks.restore_sampling import posterior_samples
from kakusan.train.reopen import reopen_parts


@dataclass(frozen=True)
class Row:
    """One way to bring pictures back.

    Args:
        what: the operator.
        how: the way.
        x0: (G, S, C, *size), S samples of each of G pictures.
        calls: passes of the network for a sample.
        seconds: of everything.
    """

    what: str
    how: str
    x0: Tensor
    calls: float
    seconds: float

    def cells(self, truth: Tensor, operator: Operator, y: Tensor) -> list[object]:
        """Of the table."""
        flat = self.x0.flatten(0, 1)
        each = psnr(flat, truth.repeat_interleave(self.x0.shape[1], 0)).mean()
        mean = self.x0.mean(1)
        fits = (operator(flat) - y.repeat_interleave(self.x0.shape[1], 0)).square().mean().sqrt() / 2.0
        spread = self.x0.var(1).mean().sqrt() / 2.0 if self.x0.shape[1] > 1 else torch.zeros(())
        return [
            self.what,
            self.how,
            f"{float(each):.2f}",
            f"{float(psnr(mean, truth).mean()):.2f}",
            f"{float(ssim(flat, truth.repeat_interleave(self.x0.shape[1], 0)).mean()):.3f}",
            f"{float(ssim(mean, truth).mean()):.3f}",
            f"{float(fits):.4f}",
            f"{float(spread):.3f}",
            f"{self.calls:.0f}",
            f"{self.seconds:.0f}",
        ]


HEAD = ["", "by", "PSNR", "of the mean", "SSIM", "of the mean", "misfit", "spread", "calls", "seconds"]


def trained(pair: str, arguments: argparse.Namespace) -> Pipeline:
    """The run of a pair, trained now where it is not there yet."""
    out = arguments.work / pair
    if RunFolder(out).latest() is None:
        options = ["train", "--recipe", "demo", "--init-from", str(arguments.base), "--pair", pair]
        options += [
            "--rate",
            str(arguments.rate),
            "--warmup",
            "20",
            "--minutes",
            str(arguments.minutes),
            "--threads",
            "1",
            "--ema",
            "0.1",
        ]
        if command([*options, "--out", str(out)]):
            raise SystemExit(f"training {pair} failed")
    return load(out)


def from_pair(
    model: Pipeline, what: str, y: Tensor, labels: list[int], samples: int, cover: float, scale: float
) -> Row:
    """By the model that was trained to."""
    count = len(y) * samples
    given = model.given(y.repeat_interleave(samples, 0), noise=cover)
    every = [label for label in labels for _ in range(samples)]
    with counted(model) as cost:
        drawn = model.sample_tensor(labels=every, given=given, num_steps=20, batch=64, guidance_scale=scale)
    how = "trained" + (f", cover {cover:g}" if cover else "") + (f", guidance {scale:g}" if scale != 1.0 else "")
    x0 = model.data.snap(drawn).view(len(y), samples, *drawn.shape[1:])
    return Row(what, how, x0, cost.evaluations / count, cost.seconds)


def exact(row: Row, model: Pipeline, y: Tensor) -> Row:
    """The same samples brought to what was given, as `kakusan transform --exact` does."""
    count = row.x0.shape[1]
    fitted = model.pair.fitted(row.x0.flatten(0, 1), y.repeat_interleave(count, 0))
    return Row(row.what, f"{row.how}, exact", model.data.snap(fitted).view_as(row.x0), row.calls, row.seconds)


def from_posterior(
    model: Pipeline, what: str, operator: Operator, y: Tensor, labels: list[int], samples: int, steps: int
) -> Row:
    """By DiffPIR with the base model."""
    every = [label for label in labels for _ in range(samples)]
    request = model.request(labels=every, num_steps=steps, batch=len(every))
    with counted(model) as cost:
        drawn = posterior_samples(model, DiffPIR(), Measurement(operator, y, 2.0 / 255.0 / 12.0**0.5), request)
    x0 = model.data.snap(drawn).view(len(y), samples, *drawn.shape[1:])
    return Row(what, f"DiffPIR, {steps} steps", x0, cost.evaluations / len(every), cost.seconds)


def main() -> None:
    """Train what is missing, measure, and say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", type=Path, default=Path("runs/demo"))
    parser.add_argument("--work", type=Path, default=Path("runs/trained-restoration"))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="*", default=[20], help="of the posterior sampler, a row for each")
    parser.add_argument("--guidance", type=float, nargs="*", default=[], help="of the trained model, a row for each")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = load(arguments.base)
    held_out = reopen_parts(base)[1]
    rows = torch.arange(arguments.pictures) * len(held_out) // arguments.pictures
    truth = held_out.spec.to_model(held_out.read(rows.numpy()))
    assert held_out.labels is not None
    labels, samples = held_out.labels[rows].tolist(), arguments.samples
    shape = tuple(truth.shape[1:])
    cells: list[list[object]] = []
    figures: list[str] = []
    for pair, operator in (("upscale-4", Downsample(shape, 4)), ("gray", Gray(shape))):
        model, y = trained(pair, arguments), operator(truth)
        began = time.perf_counter()
        if pair == "gray":
            plain = {"gray as it is": y.expand_as(truth)}
        else:
            plain = {
                "repeating pixels": operator.pinv(y),
                "bicubic": F.interpolate(y, shape[1:], mode="bicubic", align_corners=False).clamp(-1.0, 1.0),
            }
        spent = time.perf_counter() - began
        ways = [Row(pair, how, x.unsqueeze(1), 0.0, spent) for how, x in plain.items()]
        ways += [from_posterior(base, pair, operator, y, labels, samples, steps) for steps in arguments.steps]
        ways.append(from_pair(model, pair, y, labels, samples, 0.0, 1.0))
        ways.append(exact(ways[-1], model, y))
        ways += [from_pair(model, pair, y, labels, samples, 0.0, scale) for scale in arguments.guidance]
        if pair != "gray":
            ways.append(from_pair(model, pair, y, labels, samples, 0.2, 1.0))
        cells += [way.cells(truth, operator, y) for way in ways]
        print(table(HEAD, cells[-len(ways) :]), flush=True)
        steps, seen = (model.facts.training[name] for name in ("steps", "samples"))
        spent, rate = model.facts.training["seconds"], model.facts.training["config"]["optim"]["rate"]
        figures.append(f"{pair}: {steps} steps at rate {rate:g}, {seen} pictures seen, {spent:.0f} s")
        if arguments.write:
            shown = [way for way in ways if "guidance" not in way.how and "cover" not in way.how]
            names = list(dict.fromkeys(way.how for way in shown))
            chosen = [next(way for way in ways if way.how == name) for name in names]
            pictures = [p for way in chosen for p in base.data.to_pil(way.x0[:8, 0].clamp(-1.0, 1.0))]
            pictures += base.data.to_pil(truth[:8])
            sheet = grid(pictures, columns=min(8, len(truth)), row_labels=[*names, "true"], scale=2)
            save_png(sheet, RESULTS / f"trained-restoration-{pair}.png", {"kind": "figure"})
    lines = [
        "# Restoration by training",
        "",
        f"{arguments.pictures} held-out embedded flowers at {shape[2]} x {shape[1]}, {samples} samples of each, "
        f"drawn in 20 steps. Every run started from the base model ({'; '.join(figures)}). {machine(1)}",
        "",
        "PSNR in dB and SSIM are of single samples, then of their mean; misfit is the root mean square of A x - y and "
        "spread the standard deviation over samples, both as shares of the range from black to white. A sample is one "
        "guess at what is uncertain, and its PSNR is below that of the mean for that reason.",
        "",
        table(HEAD, cells),
        "",
        *(f"![{pair}](trained-restoration-{pair}.png)" for pair in ("upscale-4", "gray")),
        "",
        f"`python benchmarks/trained_restoration.py --base {arguments.base} --minutes {arguments.minutes:g} "
        f"--pictures {arguments.pictures} --samples {samples} --write`",
    ]
    finish("\n".join(lines) + "\n", RESULTS / "trained-restoration.md" if arguments.write else None)


if __name__ == "__main__":
    main()
