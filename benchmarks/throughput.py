"""Training step of the default U-Net and DiT against those of other libraries, at equal parameters and arithmetic.

    python benchmarks/throughput.py --write               # docs/results/throughput.md
    python benchmarks/throughput.py --rounds 3 --batch 16 --threads 1 --loss-steps 0

Each network trains in a process of its own, because the settings under test belong to the process. Rounds are
interleaved: every network does one step, in turn, while the others sleep, and ratios are taken within a round, so a
machine that slows down slows all of them. Two rows for each peer: as shipped (what `import`, a loss and AdamW give),
and given the same process-wide settings and number format as ours (`kakusan.runtime`). Then ours and diffusers' learn
from the same flowers, noise and times, and their losses are compared. Needs the `peers` extra.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

import common
import networks
from networks import CONTESTANTS, DITS, LARGE, OUR_DIT, OUR_LARGE, OUR_UNET, SHAPE, UNETS, Contestant

PICTURES = 2048
RATE, WARMUP = 6e-4, 50
LEARNING = {
    "large": (
        OUR_LARGE,
        "diffusers UNet2DModel, 6.5 M, same settings",
        "diffusers UNet2DModel, 6.5 M, as shipped",
    ),
    "dit": (
        OUR_DIT,
        "diffusers DiTTransformer2DModel, same settings",
        "diffusers DiTTransformer2DModel, as shipped",
    ),
}
OUT = common.RESULTS / "throughput.md"
BARS = {
    "diffusers UNet2DModel, 6.5 M, as shipped": 2.3,
    "diffusers UNet2DModel, 6.5 M, same settings": 1.15,
    "diffusers DiTTransformer2DModel, as shipped": 4.0,
}
HEAD = (
    "network",
    "format",
    "parameters",
    "GFLOP/image",
    "images/s median (min-max)",
    "GFLOP/s",
    "MFU",
    "ratio median (min-max)",
    "ratio, not compiled",
    "bar",
)


def work(variant: str, batch: int, threads: int) -> None:
    """One network in this process: a training step for every line read."""
    import torch

    contestant = CONTESTANTS[variant]
    precision = contestant.prepared(threads, training=True)
    torch.manual_seed(0)
    network, call = contestant.build()
    if contestant.compiles():
        network.compile(dynamic=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=contestant.tuned or None)
    x, target, c_noise = torch.randn(batch, *SHAPE), torch.randn(batch, *SHAPE), torch.rand(batch)

    def step() -> None:
        optimizer.zero_grad()
        with precision.autocast():
            out = call(network, x, c_noise)
        torch.nn.functional.mse_loss(out.float(), target).backward()
        optimizer.step()

    common.serve({**networks.facts(contestant, backward=True), "precision": precision.name}, step)


def learn(variant: str, steps: int, batch: int, threads: int) -> None:
    """One network in this process: says the velocity loss of each step, from the same seeds for all."""
    import torch
    import torch.nn.functional as F

    from kakusan.data import flowers

    contestant = CONTESTANTS[variant]
    precision = contestant.prepared(threads)
    pictures = flowers.pictures(size=SHAPE[1], num=PICTURES)
    data = pictures.spec.to_model(pictures.read(range(len(pictures))))
    torch.manual_seed(0)
    network, call = contestant.build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    source = torch.Generator().manual_seed(1)
    seen = []
    for step in range(steps):
        x0 = data[torch.randint(len(data), (batch,), generator=source)]
        eps = torch.randn(x0.shape, generator=source)
        t = torch.rand(batch, generator=source).clamp(1e-3, 1.0 - 1e-3)
        wide = t[:, None, None, None]
        with precision.autocast():
            out = call(network, (1.0 - wide) * x0 + wide * eps, contestant.rescaled(t))
        loss = F.mse_loss(out.float(), eps - x0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        seen.append(float(loss.detach()))
    print(json.dumps(seen))


def compare_losses(names: Sequence[str], steps: int, batch: int, threads: int) -> str:
    """A table of losses on the way, one process after the other."""
    rows = []
    thirds = [(i * steps // 5, (i + 1) * steps // 5) for i in (0, 2, 4)]
    for name in names:
        if CONTESTANTS[name].missing():
            continue
        arguments = [sys.executable, __file__, "--worker", name, "--loss-steps", str(steps), "--batch", str(batch)]
        done = subprocess.run([*arguments, "--threads", str(threads)], capture_output=True, text=True, check=True)
        seen = json.loads(done.stdout.splitlines()[-1])
        rows.append((name, *(f"{sum(seen[a:b]) / (b - a):.4f}" for a, b in thirds)))
    return common.table(("network", *(f"steps {a + 1}-{b}" for a, b in thirds)), rows)


def measure(family: dict[str, Contestant], ours: str, rounds: int, batch: int, threads: int) -> list[str]:
    """A table, with the peak of the same run, and what was left out."""
    import peak

    left_out = {name: why for name, c in family.items() if (why := c.missing() if c.trains else "")}
    if ours in left_out:
        return [f"Not measured: {left_out[ours]}."]
    chosen = [name for name, c in family.items() if c.trains and name not in left_out]
    arguments = ("--batch", str(batch), "--threads", str(threads))
    workers = {name: common.Worker(__file__, name, *arguments) for name in chosen}
    try:
        times = common.interleaved(workers, rounds, warm=3)
        facts = {name: worker.facts for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    ceiling = peak.measure(threads=threads)
    own, rows = facts[ours]["flops"], []
    plain = times.get(f"{ours}, not compiled", times[ours])
    for name, seen in times.items():
        flops = facts[name]["flops"]
        rate = common.Spread.of(batch / t for t in seen)
        ratio, uncompiled = (
            common.Spread.of((theirs * own) / (mine * flops) for mine, theirs in zip(base, seen, strict=True))
            for base in (times[ours], plain)
        )
        rows.append(
            (
                name,
                facts[name]["precision"],
                f"{facts[name]['parameters'] / 1e6:.2f} M",
                f"{flops / 1e9:.2f}",
                rate.text(".1f"),
                f"{rate.median * flops / 1e9:.0f}",
                f"{ceiling.mfu(flops * rate.median, 1.0, facts[name]['precision']):.0%}",
                ratio.text(),
                uncompiled.text(),
                BARS.get(name, ""),
            )
        )
    notes = [f"{name}: left out, {why}." for name, why in left_out.items()]
    return [common.table(HEAD, rows, texts=2), "", ceiling.text(), *notes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loss-steps", type=int, default=200, help="of the comparison of losses; 0 leaves it out")
    parser.add_argument("--loss-batch", type=int, default=8)
    parser.add_argument("--only", choices=("large", "default", "dit"), help="one family of networks")
    parser.add_argument("--write", action="store_true", help=f"write {OUT.relative_to(common.ROOT)}")
    parser.add_argument("--worker", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        if "--loss-steps" in sys.argv:
            learn(options.worker, options.loss_steps, options.batch, options.threads)
        else:
            work(options.worker, options.batch, options.threads)
        return
    sizes = (options.rounds, options.batch, options.threads)
    families = {"large": (LARGE, OUR_LARGE), "default": (UNETS, OUR_UNET), "dit": (DITS, OUR_DIT)}
    tables = {
        name: "\n".join(measure(family, ours, *sizes)) if options.only in (None, name) else "Not asked for."
        for name, (family, ours) in families.items()
    }
    losses = "Not asked for."
    if chosen := [name for name in LEARNING if options.loss_steps and options.only in (None, name)]:
        losses = "\n\n".join(
            compare_losses(LEARNING[name], options.loss_steps, options.loss_batch, options.threads) for name in chosen
        )
    page = PAGE.format(
        command=f"python benchmarks/throughput.py --rounds {sizes[0]} --batch {sizes[1]} --threads {sizes[2]} --write",
        machine=common.machine(options.threads),
        shape=f"{SHAPE[1]}x{SHAPE[2]}x{SHAPE[0]}",
        batch=options.batch,
        **tables,
        steps=options.loss_steps,
        few=options.loss_batch,
        losses=losses,
    )
    common.finish(page, OUT if options.write else None)


PAGE = """# Training throughput

    {command}

{machine}

Batch {batch} of {shape}, the DiTs in patches of 2, so 256 tokens; a step is forward, MSE, backward and AdamW. *Format*
is that of the products: a network *as shipped* computes in float32; ours, and a peer with the *same settings*, in what
`--precision auto` chooses on this machine, and as `kakusan.runtime.tune` sets the process up, for a long run where
compiled and for a peer. Ours are compiled where `kakusan train` compiles a long run by itself; compiling is not
counted. GFLOP are nominal: those of direct convolutions and of attention written out, forward and backward, for all
networks alike. *Ratio* is our arithmetic rate over theirs within one round: images/s corrected for the small difference
in FLOPs; *not compiled*, that of ours as a short run trains it. *MFU* is the median rate over the peak of this machine
in that format, measured in the same run.

## U-Net of the size that the bar is for

{large}

## U-Net, our default

diffusers' is as wide as makes it equal to ours.

{default}

## DiT

{dit}

## Loss after {steps} steps

Velocity loss on the straight path, the same flowers, noise and times, AdamW at the same rate for all; batch {few},
means over steps, one seed, each in its format, none compiled.

{losses}
"""

if __name__ == "__main__":
    main()
