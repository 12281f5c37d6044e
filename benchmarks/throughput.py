"""Training step of the default U-Net against the U-Nets of other libraries, at equal parameters and arithmetic.

    python benchmarks/throughput.py                       # writes docs/results/throughput.md
    python benchmarks/throughput.py --rounds 3 --batch 16 --threads 1 --out /tmp/throughput.md

Each network trains in a process of its own, because the settings under test belong to the process. Rounds are
interleaved: every network does one step, in turn, while the others sleep, and ratios are taken within a round, so a
machine that slows down slows all of them. Two rows for each peer: as shipped (what `import`, a loss and AdamW give),
and given the same process-wide settings as ours (`kakusan.runtime.tune`). Needs the `peers` extra; torchvision and
pytorch-fid are replaced by empty modules when they are not installed, since no network here uses them.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPE = (3, 32, 32)
OURS = "kakusan"
# Sizes that agree with the default U-Net of ours within 5% in parameters and in arithmetic.
VARIANTS: dict[str, tuple[str, bool]] = {
    OURS: ("kakusan", True),
    "kakusan, direct convolutions": ("kakusan_direct", True),
    "diffusers UNet2DModel, as shipped": ("diffusers", False),
    "diffusers UNet2DModel, same settings": ("diffusers", True),
    "denoising-diffusion-pytorch Unet, as shipped": ("denoising_diffusion_pytorch", False),
    "denoising-diffusion-pytorch Unet, same settings": ("denoising_diffusion_pytorch", True),
}
BARS = {"diffusers UNet2DModel, as shipped": 2.0, "diffusers UNet2DModel, same settings": 1.1}


def build_kakusan() -> tuple[Any, Callable[..., Any]]:
    from kakusan.nn import UNet

    return UNet.for_data(SHAPE[0], SHAPE[1:]), lambda network, x, c: network(x, c)


def build_kakusan_direct() -> tuple[Any, Callable[..., Any]]:
    from kakusan.nn import winograd

    winograd.allow(False)
    return build_kakusan()


def build_diffusers() -> tuple[Any, Callable[..., Any]]:
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=SHAPE[1],
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        block_out_channels=(64, 80, 144),
        norm_num_groups=16,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    return network, lambda network, x, c: network(x, c).sample


def build_denoising_diffusion_pytorch() -> tuple[Any, Callable[..., Any]]:
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils", "pytorch_fid"):
        stub(name)
    stub("pytorch_fid.fid_score", "calculate_frechet_distance")
    stub("pytorch_fid.inception", "InceptionV3")
    from denoising_diffusion_pytorch import Unet

    network = Unet(dim=56, dim_mults=(1, 2, 3), channels=SHAPE[0], full_attn=(False, True, True))
    return network, lambda network, x, c: network(x, c)


def stub(name: str, *attributes: str) -> None:
    """An empty module in place of one that is not installed."""
    if name in sys.modules or ("." not in name and importlib.util.find_spec(name)):
        return
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []
    for attribute in attributes:
        setattr(module, attribute, None)
    if parent := sys.modules.get(name.rpartition(".")[0]):
        setattr(parent, name.rpartition(".")[2], module)
    sys.modules[name] = module


def work(variant: str, batch: int, threads: int) -> None:
    """One network in this process: facts on the first line, then seconds of one step for each line read."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(threads)
    builder, tuned = VARIANTS[variant]
    if tuned:
        from kakusan import runtime

        runtime.tune(threads=threads)
    torch.manual_seed(0)
    network, call = globals()[f"build_{builder}"]()

    # Counted on the meta device, with attention written out, so that every product of every library is seen.
    with torch.device("meta"):
        traced, _ = globals()[f"build_{builder}"]()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call(traced, torch.empty(1, *SHAPE), torch.empty(1)).sum().backward()
    parameters = sum(p.numel() for p in network.parameters())
    print(json.dumps({"parameters": parameters, "flops": counter.get_total_flops()}), flush=True)

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=tuned or None)
    x, target, c_noise = torch.randn(batch, *SHAPE), torch.randn(batch, *SHAPE), torch.rand(batch)
    for _ in sys.stdin:
        start = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(call(network, x, c_noise), target).backward()
        optimizer.step()
        print(time.perf_counter() - start, flush=True)


class Worker:
    """A process that trains one network, a step at a time."""

    def __init__(self, variant: str, batch: int, threads: int) -> None:
        command = [sys.executable, __file__, "--worker", variant, "--batch", str(batch), "--threads", str(threads)]
        root = str(Path(__file__).resolve().parent.parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts: dict[str, int] = json.loads(self.line())

    def line(self) -> str:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise RuntimeError(f"a worker ended with status {self.process.wait()}; its error is above")
        return text

    def step(self) -> float:
        """Seconds of one training step."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return float(self.line())

    def close(self) -> None:
        self.process.communicate()


def peak(threads: int) -> float:
    """Best float32 rate of a plain matrix product, FLOP/s."""
    import torch

    torch.set_num_threads(threads)
    size = 768
    a, b = torch.randn(2, size, size)
    times = []
    for _ in range(40):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def measure(rounds: int, batch: int, threads: int) -> str:
    """The page, as Markdown."""
    import torch

    workers = {variant: Worker(variant, batch, threads) for variant in VARIANTS}
    try:
        for worker in workers.values():
            worker.step()
            worker.step()
        rates = {variant: [] for variant in workers}
        for _ in range(rounds):
            for variant, worker in workers.items():
                rates[variant].append(batch / worker.step())
    finally:
        for worker in workers.values():
            worker.close()
    ceiling = peak(threads)
    command = f"python benchmarks/throughput.py --rounds {rounds} --batch {batch} --threads {threads}"
    lines = [
        "# Training throughput",
        "",
        f"`{command}`, {time.strftime('%F')}.",
        f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, float32,",
        f"batch {batch} of {SHAPE[1]}x{SHAPE[2]}x{SHAPE[0]}; a step is forward, MSE, backward and AdamW.",
        f"Load average when done: {os.getloadavg()[0]:.1f} (this benchmark alone makes {threads}).",
        "",
        "GFLOP are those of direct convolutions, forward and backward, for all networks alike. *Ratio* is our",
        "arithmetic rate over theirs within one round: images/s corrected for the small difference in FLOPs. *Of the",
        f"peak* is the median rate over the best of a 768 x 768 matrix product here, {ceiling / 1e9:.0f} GFLOP/s;",
        "minimal filtering does fewer multiplications than are counted, so ours may pass 100%.",
        "",
        "| network | parameters | GFLOP/image | images/s median (min-max) | GFLOP/s | of the peak "
        "| ratio median (min-max) | bar |",
        "|---|---|---|---|---|---|---|---|",
    ]
    own = workers[OURS].facts["flops"]
    for variant, worker in workers.items():
        flops, seen = worker.facts["flops"], rates[variant]
        rate = statistics.median(seen)
        ratios = [mine * own / (theirs * flops) for mine, theirs in zip(rates[OURS], seen, strict=True)]
        lines.append(
            f"| {variant} | {worker.facts['parameters'] / 1e6:.2f} M | {flops / 1e9:.2f} "
            f"| {rate:.1f} ({min(seen):.1f}-{max(seen):.1f}) | {rate * flops / 1e9:.0f} | {rate * flops / ceiling:.0%} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {BARS.get(variant, '')} |"
        )
    return "\n".join(lines) + "\n"


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        return {k.strip(): v.strip() for k, v in fields.items()}.get("model name", platform.machine())
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/throughput.md"))
    parser.add_argument("--worker", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.batch, options.threads)
        return
    page = measure(options.rounds, options.batch, options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
