"""Our DiT against diffusers' at equal arithmetic: training steps in pairs, and the loss that the same steps reach.

    python benchmarks/throughput_dit.py --write               # about an hour on two cores; writes the page
    python benchmarks/throughput_dit.py --rounds 1 --steps 3 --batch 8

Speed is measured as in `throughput.py`: each network in a process of its own, five rounds in turn, ratios within a
round. For the loss both train on the same flowers with the same noise at the same times (velocity on the straight
path), the same optimizer, rate and warm-up; only what tells them the time differs, since each has its own way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import common
import throughput
import torch
import torch.nn.functional as F
from networks import DITS, OUR_DIT, SHAPE
from torch import Tensor

OUT = common.RESULTS / "throughput-dit.md"
PEER = "diffusers DiTTransformer2DModel, same settings"
PICTURES = 2048
RATE, WARMUP = 6e-4, 50
LAST = 20


def half_log_ratio(t: Tensor) -> Tensor:
    """What our networks are told in training on this path: half of log(alpha / sigma), of size about [-5, 5]."""
    return 0.5 * torch.log((1.0 - t) / t)


TOLD: dict[str, Callable[[Tensor], Tensor]] = {OUR_DIT: half_log_ratio, PEER: lambda t: t}


def losses(name: str, steps: int, batch: int) -> list[float]:
    """Velocity loss of each step of one network, from the same seeds for all."""
    from kakusan.data import flowers

    pictures = flowers.pictures(size=SHAPE[1], num=PICTURES)
    data = pictures.spec.to_model(pictures.read(range(len(pictures))))
    torch.manual_seed(0)
    network, call = DITS[name].build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    source = torch.Generator().manual_seed(1)
    seen = []
    for step in range(steps):
        x0 = data[torch.randint(len(data), (batch,), generator=source)]
        eps = torch.randn(x0.shape, generator=source)
        t = torch.rand(batch, generator=source).clamp(1e-3, 1.0 - 1e-3)
        wide = t[:, None, None, None]
        loss = F.mse_loss(call(network, (1.0 - wide) * x0 + wide * eps, TOLD[name](t)), eps - x0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        seen.append(float(loss.detach()))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200, help="of the comparison of losses; 0 leaves it out")
    parser.add_argument("--write", action="store_true", help="write the page")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()

    speed = throughput.measure(DITS, OUR_DIT, options.rounds, options.batch, options.threads)
    from kakusan import runtime

    runtime.tune(threads=options.threads)
    curves = {name: losses(name, options.steps, options.batch) for name in TOLD if options.steps}
    rows = [
        (name, *(f"{part:.4f}" for part in (curve[0], curve[len(curve) // 2], sum(curve[-LAST:]) / len(curve[-LAST:]))))
        for name, curve in curves.items()
    ]
    head = ("network", "first step", "half-way", f"mean of the last {LAST}")
    sizes = f"--rounds {options.rounds} --batch {options.batch} --threads {options.threads} --steps {options.steps}"
    page = PAGE.format(
        command=f"python benchmarks/throughput_dit.py {sizes}",
        machine=common.machine(options.threads),
        batch=options.batch,
        speed="\n".join(speed),
        steps=options.steps,
        losses=common.table(head, rows) if rows else "Not asked for.",
    )
    common.finish(page, options.out if options.write else None)


PAGE = """# The DiT beside diffusers'

    {command}

{machine}

## Speed

float32, batch {batch} of 32x32x3, patch 2, so 256 tokens; a step is forward, MSE, backward and AdamW. *Ratio* is our
arithmetic rate over theirs within one round.

{speed}

## Loss after {steps} steps

Velocity loss on the straight path, the same flowers, noise and times, AdamW at the same rate for both.

{losses}
"""


if __name__ == "__main__":
    main()
