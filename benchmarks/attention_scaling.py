"""Softmax against linear attention over the number of tokens: time, memory and FLOPs.

    python benchmarks/attention_scaling.py --write        # docs/results/attention.md and its figure
    python benchmarks/attention_scaling.py --most 1024 --threads 1

For the attention of the U-Net on maps of 8x8 to 128x128, and for a DiT with as many tokens. One picture, forward and
backward. Memory is how much the process grew during a call, measured before the allocator is told to keep what it
frees.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
import peak
import torch
from torch import nn

from kakusan import nn as backbones
from kakusan import runtime
from kakusan.nn import LinearAttention, SoftmaxAttention

OUT = common.RESULTS / "attention.md"
FIGURE = "attention.png"
SIDES = (8, 12, 16, 24, 32, 48, 64, 96, 128)
WIDTH = 64
DEPTH = 2
KINDS = {"softmax": SoftmaxAttention(), "linear": LinearAttention()}
# Below this the fixed cost of starting operations is most of the time.
FIT_FROM = 1024


@dataclass
class Case:
    """One kind of attention at one number of tokens."""

    tokens: int
    flops: int
    run: Callable[[], object]
    memory: int | None
    times: list[float]

    def seconds(self) -> common.Spread:
        return common.Spread.of(self.times)


def unet_map(kind: str, side: int, device: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The attention module of a U-Net on a map of `WIDTH` channels."""
    return KINDS[kind].build(WIDTH).to(device), (torch.empty(1, WIDTH, side, side, device=device),)


def dit(kind: str, side: int, device: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A small DiT whose patches make `side` x `side` tokens."""
    network = backbones.DiT(channels=3, rank=2, width=WIDTH, depth=DEPTH, patch=2, attention=KINDS[kind]).to(device)
    return network, (torch.empty(1, 3, 2 * side, 2 * side, device=device), torch.zeros(1, device=device))


Build = Callable[[str, int, str], tuple[nn.Module, tuple[torch.Tensor, ...]]]


def prepare(build: Build, kind: str, side: int) -> Case:
    """Count on the meta device, then measure memory."""

    def call(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        network(*inputs).sum().backward()

    flops = peak.count(lambda: call(*build(kind, side, "meta")))
    torch.manual_seed(0)
    network, inputs = build(kind, side, "cpu")
    inputs[0].normal_().requires_grad_()

    def run() -> None:
        call(network, inputs)

    run()
    return Case(side * side, flops, run, common.peak_memory(run), [])


def measure(build: Build, sides: tuple[int, ...]) -> dict[str, list[Case]]:
    """Cases of both kinds, memory measured."""
    return {kind: [prepare(build, kind, side) for side in sides] for kind in KINDS}


def time_all(families: dict[str, dict[str, list[Case]]], repeats: int) -> None:
    """Fill in the times; both kinds take turns at every number of tokens."""
    for found in families.values():
        for pair in zip(*found.values(), strict=True):
            for turn in range(1 + repeats):
                for case in pair:
                    taken = common.seconds(case.run, repeats=1, warm=0)
                    if turn:
                        case.times += taken


def fitted(cases: list[Case]) -> str:
    """Slope of log time over the large numbers of tokens."""
    kept = [c for c in cases if c.tokens >= FIT_FROM]
    if len(kept) < 2:
        return "not fitted"
    return f"{common.slope([c.tokens for c in kept], [c.seconds().median for c in kept]):.2f}"


def section(found: dict[str, list[Case]], ceiling: peak.Peak) -> str:
    """The table of one family, with its slopes."""
    rows = []
    for soft, linear in zip(found["softmax"], found["linear"], strict=True):
        cells: list[str] = [f"{soft.tokens:,}"]
        for case in (soft, linear):
            spread = case.seconds()
            memory = "" if case.memory is None else f"{case.memory / 2**20:.1f}"
            cells += [
                f"{1e3 * spread.median:.2f} ({1e3 * spread.least:.2f}-{1e3 * spread.most:.2f})",
                f"{case.flops / 1e9:.3f}",
                f"{ceiling.mfu(case.flops, spread.median):.0%}",
                memory,
            ]
        rows.append((*cells, f"{soft.seconds().median / linear.seconds().median:.2f}"))
    head = ["tokens"]
    for kind in KINDS:
        head += [f"{kind} ms", "GFLOP", "MFU", "MiB"]
    growth = ", ".join(f"{kind} {fitted(cases)}" for kind, cases in found.items())
    text = f"Slope of log time against log tokens, from {FIT_FROM} tokens on: {growth}."
    return f"{common.table([*head, 'softmax / linear'], rows, texts=0)}\n\n{text}"


def draw(families: dict[str, dict[str, list[Case]]], path: Path) -> None:
    """Time and memory of each family."""
    from kakusan.report import style

    figure = style.figure(1000, 380 * len(families))
    place = 0
    for name, found in families.items():
        for label, value in (
            ("milliseconds", lambda c: 1e3 * c.seconds().median),
            ("MiB", lambda c: (c.memory or 0) / 2**20),
        ):
            place += 1
            axes = common.log_axes(figure, name, "tokens", label, (len(families), 2, place))
            for (kind, cases), colour in zip(found.items(), (style.VERMILION, style.INDIGO), strict=True):
                shown = [(c.tokens, value(c)) for c in cases if value(c) > 0]
                if shown:
                    axes.plot(*zip(*shown, strict=True), color=colour, marker="o", markersize=4, label=kind)
            axes.set_xticks([64, 256, 1024, 4096, 16384])
            axes.legend(frameon=False, fontsize=9, labelcolor=style.INK)
    figure.tight_layout()
    common.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most", type=int, default=SIDES[-1] ** 2, help="largest number of tokens")
    parser.add_argument("--write", action="store_true", help=f"write {OUT.relative_to(common.ROOT)} and its figure")
    parser.add_argument("--out", type=Path, help="another place for the page")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sides = tuple(side for side in SIDES if side * side <= options.most)
    builds: dict[str, Build] = {f"Attention of the U-Net, {WIDTH} channels": unet_map}
    notes = ""
    if hasattr(backbones, "DiT"):
        builds[f"DiT, width {WIDTH}, {DEPTH} blocks"] = dit
    else:
        notes = "\nDiT: not measured, kakusan.nn has none.\n"
    families = {name: measure(build, sides) for name, build in builds.items()}
    runtime.tune(threads=options.threads)
    time_all(families, options.repeats)
    ceiling = peak.measure(threads=options.threads)
    page = PAGE.format(
        machine=common.machine(options.threads),
        ceiling=ceiling.text(),
        figure=FIGURE,
        sections="\n".join(f"## {name}\n\n{section(found, ceiling)}\n" for name, found in families.items()) + notes,
    )
    out = options.out or (OUT if options.write else None)
    common.finish(page, out)
    if out is not None:
        draw(families, out.with_name(FIGURE))


PAGE = """# Softmax and linear attention

    python benchmarks/attention_scaling.py --write

{machine}
{ceiling}

One picture, forward and backward, float32, median (min-max) of rounds in which both kinds take turns. GFLOP are
nominal: matrix products and convolutions, attention written out. Memory is how much the process grew during a call.
Softmax attention holds the whole matrix of logits up to 1024 tokens and uses torch's fused kernel above, which keeps
none: its memory falls there, its time stays quadratic. Linear attention is proportional to the tokens in both.

![time and memory against tokens]({figure})

{sections}"""

if __name__ == "__main__":
    main()
