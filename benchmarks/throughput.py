"""Training step of the default U-Net and DiT against those of other libraries, at equal parameters and arithmetic.

    python benchmarks/throughput.py                       # writes docs/results/throughput.md
    python benchmarks/throughput.py --rounds 3 --batch 16 --threads 1 --out /tmp/throughput.md

Each network trains in a process of its own, because the settings under test belong to the process. Rounds are
interleaved: every network does one step, in turn, while the others sleep, and ratios are taken within a round, so a
machine that slows down slows all of them. Two rows for each peer: as shipped (what `import`, a loss and AdamW give),
and given the same process-wide settings as ours (`kakusan.runtime.tune`). Needs the `peers` extra.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common
import networks
from networks import CONTESTANTS, DITS, OUR_DIT, OUR_UNET, SHAPE, UNETS, Contestant

OUT = common.RESULTS / "throughput.md"
BARS = {
    "diffusers UNet2DModel, as shipped": 2.3,
    "diffusers UNet2DModel, same settings": 1.15,
    "diffusers DiTTransformer2DModel, as shipped": 4.0,
}
HEAD = (
    "network",
    "parameters",
    "GFLOP/image",
    "images/s median (min-max)",
    "GFLOP/s",
    "MFU",
    "ratio median (min-max)",
    "bar",
)


def work(variant: str, batch: int, threads: int) -> None:
    """One network in this process: a training step for every line read."""
    import torch

    torch.set_num_threads(threads)
    contestant = CONTESTANTS[variant]
    if contestant.tuned:
        from kakusan import runtime

        runtime.tune(threads=threads)
    torch.manual_seed(0)
    network, call = contestant.build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=contestant.tuned or None)
    x, target, c_noise = torch.randn(batch, *SHAPE), torch.randn(batch, *SHAPE), torch.rand(batch)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(call(network, x, c_noise), target).backward()
        optimizer.step()

    common.serve(networks.facts(contestant, backward=True), step)


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
        times = common.interleaved(workers, rounds, warm=2)
        facts = {name: worker.facts for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    ceiling = peak.measure(threads=threads)
    own, rows = facts[ours]["flops"], []
    for name, seen in times.items():
        flops = facts[name]["flops"]
        rate = common.Spread.of(batch / t for t in seen)
        ratio = common.Spread.of(
            (theirs * own) / (mine * flops) for mine, theirs in zip(times[ours], seen, strict=True)
        )
        rows.append(
            (
                name,
                f"{facts[name]['parameters'] / 1e6:.2f} M",
                f"{flops / 1e9:.2f}",
                rate.text(".1f"),
                f"{rate.median * flops / 1e9:.0f}",
                f"{ceiling.mfu(flops * rate.median, 1.0):.0%}",
                ratio.text(),
                BARS.get(name, ""),
            )
        )
    notes = [f"{name}: left out, {why}." for name, why in left_out.items()]
    return [common.table(HEAD, rows), "", ceiling.text(), *notes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("unet", "dit"), help="one family of networks")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--worker", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.batch, options.threads)
        return
    sizes = (options.rounds, options.batch, options.threads)
    unets = measure(UNETS, OUR_UNET, *sizes) if options.only != "dit" else ["Not asked for."]
    dits = measure(DITS, OUR_DIT, *sizes) if options.only != "unet" else ["Not asked for."]
    page = PAGE.format(
        command=f"python benchmarks/throughput.py --rounds {sizes[0]} --batch {sizes[1]} --threads {sizes[2]}",
        machine=common.machine(options.threads),
        shape=f"{SHAPE[1]}x{SHAPE[2]}x{SHAPE[0]}",
        batch=options.batch,
        unets="\n".join(unets),
        dits="\n".join(dits),
    )
    common.finish(page, options.out)


PAGE = """# Training throughput

    {command}

{machine}

float32, batch {batch} of {shape}; a step is forward, MSE, backward and AdamW. GFLOP are nominal: those of direct
convolutions and of attention written out, forward and backward, for all networks alike. *Ratio* is our arithmetic rate
over theirs within one round: images/s corrected for the small difference in FLOPs. *MFU* is the median rate over the
peak of this machine, measured in the same run; minimal filtering does fewer multiplications than are counted, so ours
may pass 100%.

## U-Net

{unets}

## DiT

{dits}
"""

if __name__ == "__main__":
    main()
