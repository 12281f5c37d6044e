"""Seconds to draw 16 pictures in 50 DDIM steps, ours and other libraries', at equal parameters and arithmetic.

    python benchmarks/sampling.py --write                 # docs/results/sampling.md
    python benchmarks/sampling.py --rounds 1 --steps 4 --num 4 --threads 1

Every contestant is a process of its own that draws all pictures when told to, with untrained weights (which cost the
same). Rounds are interleaved and ratios taken within a round. Peers draw as they ship: diffusers by its `DDIMPipeline`
(its DiT by the loop of its `DDIMScheduler`, since `DiTPipeline` wants an autoencoder), the others by their own DDIM.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable

import common
import networks
from networks import CONTESTANTS, DITS, OUR_DIT, OUR_UNET, SHAPE, UNETS, Call, Contestant
from torch import nn

OUT = common.RESULTS / "sampling.md"
BARS = {"diffusers UNet2DModel, as shipped": 2.0, "diffusers DiTTransformer2DModel, as shipped": 2.0}
HEAD = (
    "network and sampler",
    "format",
    "parameters",
    "GFLOP/evaluation of a picture",
    "seconds median (min-max)",
    "ms/step",
    "GFLOP/s",
    "MFU",
    "ratio median (min-max)",
    "bar",
)


def draw_kakusan(network: nn.Module, call: Call, num: int, steps: int) -> Callable[[], object]:
    import kakusan
    from kakusan import grids
    from kakusan.parameterizations import V
    from kakusan.samplers import DDIM
    from kakusan.schedule_tables import Tabulated

    denoiser = kakusan.Denoiser(network, Tabulated.linear(), V(), sigma_data=0.5).eval()
    grid = grids.uniform(denoiser.schedule, steps)
    return lambda: kakusan.sample(denoiser, DDIM(), grid, (num, *SHAPE))


def draw_diffusers(network: nn.Module, call: Call, num: int, steps: int) -> Callable[[], object]:
    from diffusers import DDIMPipeline, DDIMScheduler

    pipeline = DDIMPipeline(network.eval(), DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=num, num_inference_steps=steps, output_type="np")


def draw_diffusers_loop(network: nn.Module, call: Call, num: int, steps: int) -> Callable[[], object]:
    import torch
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler()
    network.eval()

    def run() -> object:
        scheduler.set_timesteps(steps)
        x = torch.randn(num, *SHAPE)
        with torch.no_grad():
            for t in scheduler.timesteps:
                x = scheduler.step(call(network, x, (t / 999.0).expand(num)), t, x).prev_sample
        return x

    return run


def draw_denoising_diffusion_pytorch(network: nn.Module, call: Call, num: int, steps: int) -> Callable[[], object]:
    from denoising_diffusion_pytorch import GaussianDiffusion

    diffusion = GaussianDiffusion(network, image_size=SHAPE[1], timesteps=1000, sampling_timesteps=steps).eval()
    return lambda: diffusion.sample(batch_size=num)


def draw_azula(network: nn.Module, call: Call, num: int, steps: int) -> Callable[[], object]:
    import torch
    from azula.denoise import KarrasDenoiser
    from azula.noise import VPSchedule
    from azula.sample import DDIMSampler

    class Adapter(nn.Module):
        """azula gives its backbone more than these networks take."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor, c: torch.Tensor, **_: object) -> torch.Tensor:
            return call(self.network, x, c.reshape(-1)[:1])

    sampler = DDIMSampler(KarrasDenoiser(Adapter(), VPSchedule()).eval(), steps=steps, silent=True)

    def run() -> object:
        with torch.no_grad():
            return sampler(torch.randn(num, *SHAPE))

    return run


# How the networks of each builder are sampled.
DRAW: dict[Callable[[], tuple[nn.Module, Call]], Callable[[nn.Module, Call, int, int], Callable[[], object]]] = {
    networks.build_kakusan: draw_kakusan,
    networks.build_kakusan_dit: draw_kakusan,
    networks.build_diffusers: draw_diffusers,
    networks.build_diffusers_dit: draw_diffusers_loop,
    networks.build_denoising_diffusion_pytorch: draw_denoising_diffusion_pytorch,
    networks.build_azula: draw_azula,
}


def work(name: str, num: int, steps: int, threads: int) -> None:
    """One contestant in this process."""
    import torch

    contestant = CONTESTANTS[name]
    precision = contestant.prepared(threads)
    torch.manual_seed(0)
    network, call = contestant.build()
    draw = DRAW[contestant.build](network, call, num, steps)
    ours = contestant.needs == "kakusan"
    if ours:
        # As `kakusan sample --precision auto` does.
        precision.around(network)

    def run() -> object:
        with contextlib.nullcontext() if ours else precision.autocast():
            return draw()

    common.serve({**networks.facts(contestant, backward=False), "precision": precision.name}, run)


def measure(family: dict[str, Contestant], ours: str, rounds: int, num: int, steps: int, threads: int) -> list[str]:
    """A table, with the peak of the same run, and what was left out."""
    import peak

    left_out = {name: why for name, c in family.items() if (why := c.missing() if c.samples else "")}
    if ours in left_out:
        return [f"Not measured: {left_out[ours]}."]
    chosen = [name for name, c in family.items() if c.samples and name not in left_out]
    arguments = ("--num", str(num), "--steps", str(steps), "--threads", str(threads))
    workers = {name: common.Worker(__file__, name, *arguments) for name in chosen}
    try:
        times = common.interleaved(workers, rounds)
        facts = {name: worker.facts for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    ceiling = peak.measure(threads=threads)
    own, rows = facts[ours]["flops"], []
    for name, seen in times.items():
        spread, flops = common.Spread.of(seen), facts[name]["flops"]
        ratio = common.Spread.of(
            (theirs * own) / (mine * flops) for mine, theirs in zip(times[ours], seen, strict=True)
        )
        work_done = flops * num * steps
        rows.append(
            (
                name,
                facts[name]["precision"],
                f"{facts[name]['parameters'] / 1e6:.2f} M",
                f"{flops / 1e9:.2f}",
                spread.text(),
                f"{1e3 * spread.median / steps:.0f}",
                f"{work_done / spread.median / 1e9:.0f}",
                f"{ceiling.mfu(work_done, spread.median, facts[name]['precision']):.0%}",
                ratio.text(),
                BARS.get(name, ""),
            )
        )
    notes = [f"{name}: left out, {why}." for name, why in left_out.items()]
    return [common.table(HEAD, rows, texts=2), "", ceiling.text(), *notes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("unet", "dit"), help="one family of networks")
    parser.add_argument("--write", action="store_true", help=f"write {OUT.relative_to(common.ROOT)}")
    parser.add_argument("--worker", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.num, options.steps, options.threads)
        return
    sizes = (options.rounds, options.num, options.steps, options.threads)
    unets = measure(UNETS, OUR_UNET, *sizes) if options.only != "dit" else ["Not asked for."]
    dits = measure(DITS, OUR_DIT, *sizes) if options.only != "unet" else ["Not asked for."]
    page = PAGE.format(
        command=f"python benchmarks/sampling.py --rounds {options.rounds} --num {options.num} --steps {options.steps} "
        "--write",
        machine=common.machine(options.threads),
        shape=f"{SHAPE[1]}x{SHAPE[2]}x{SHAPE[0]}",
        num=options.num,
        steps=options.steps,
        rounds=options.rounds,
        unets="\n".join(unets),
        dits="\n".join(dits),
    )
    common.finish(page, OUT if options.write else None)


PAGE = """# Sampling

    {command}

{machine}

{num} pictures of {shape} in {steps} steps of DDIM, {rounds} interleaved rounds. Weights are untrained, which costs the
same. *Format* is that of the products: a network *as shipped* computes in float32, ours and a peer with the *same
settings* in what `--precision auto` chooses on this machine. GFLOP are nominal: direct convolutions and attention
written out, one evaluation of one picture. *Ratio* is our arithmetic rate over theirs within one round: seconds
corrected for the small difference in FLOPs. *MFU* is the median rate over the peak of this machine in that format,
measured in the same run.

## U-Net

{unets}

## DiT

{dits}
"""

if __name__ == "__main__":
    main()
