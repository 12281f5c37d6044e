"""Everything about speed on one NVIDIA GPU, in one command.

    python benchmarks/on_cuda.py --write                     # docs/results/cuda.md, about 8 minutes
    python benchmarks/on_cuda.py --only peak dit             # some sections
    python benchmarks/on_cuda.py --flowers flowers102-64.zip --out runs/flowers --minutes 20 --piece 8

The second form trains the class-conditional Oxford flowers at 64x64 in pieces: the same command again goes on where the
last piece ended, until the run is as long as `--minutes` says. Without a GPU nothing is measured, and that is no error.
Needs torch, NumPy, safetensors, Pillow and tqdm; the second form also what `kakusan train` needs (tyro, matplotlib).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
import peak
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kakusan import nn as backbones
from kakusan.nn import count
from kakusan.nn.graphed import graphs_of
from kakusan.train import levers

OUT = common.RESULTS / "cuda.md"
# DiT-B/2 (Peebles & Xie 2022) on latents of 32x32x4: 256 tokens.
LATENT = (4, 32, 32)
PICTURE = (3, 64, 64)


@dataclass(frozen=True)
class Sizes:
    """How much work; `small` is for trying the script."""

    dit_width: int = 768
    dit_depth: int = 12
    dit_batch: int = 256
    unet_width: int = 128
    unet_batch: int = 128
    repeats: int = 20
    warm: int = 5
    steps: int = 50
    num: int = 16


SMALL = Sizes(64, 2, 8, 16, 8, 3, 1, 5, 2)


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device, sizes: Sizes) -> common.Spread:
    """Seconds of a call. Between waits the device runs several calls, as it does in training."""
    for _ in range(sizes.warm):
        run()
    wait(device)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(max(1, sizes.repeats // 5)):
            run()
        wait(device)
        times.append((time.perf_counter() - start) / max(1, sizes.repeats // 5))
    return common.Spread.of(times)


def memory(device: torch.device) -> str:
    """Most memory held by tensors since the last call, in GiB."""
    if device.type != "cuda":
        return ""
    most = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return f"{most:.1f}"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=torch.bfloat16)


def stir(network: nn.Module) -> nn.Module:
    """Layers that start at zero would make some gradients zero, which a compiler or a GPU's clock may profit from."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        noise = 0.02 * torch.randn(parameter.shape, generator=generator)
        parameter.data += noise.to(parameter.device)
    return network


def train_step(
    network: nn.Module, shape: tuple[int, ...], batch: int, device: torch.device, precision: str
) -> Callable[[], None]:
    """Forward in `precision`, MSE, backward and fused AdamW; weights in float32."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    x, target = torch.randn(2, batch, *shape, device=device)
    c_noise = torch.rand(batch, device=device)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(device, precision):
            out = network(x, c_noise)
        F.mse_loss(out.float(), target).backward()
        optimizer.step()

    return step


def training_rows(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    batch: int,
    device: torch.device,
    sizes: Sizes,
    top: peak.Peak,
) -> str:
    """Eager and compiled, both formats, MFU and speed over eager in the same format."""
    rows = []
    flops = batch * count.flops(build(), shape, backward=True)
    for precision in ("fp32", "bf16"):
        eager = None
        for compiled in (False, True):
            torch.manual_seed(0)
            torch.compiler.reset()
            network = stir(build().to(device))
            began = time.perf_counter()
            step = train_step(torch.compile(network) if compiled else network, shape, batch, device, precision)
            memory(device)
            step()
            wait(device)
            first = time.perf_counter() - began
            seconds = timed(step, device, sizes)
            eager = seconds.median if eager is None else eager
            rows.append(
                (
                    precision,
                    "compiled" if compiled else "eager",
                    f"{1e3 * seconds.median:.1f} ({1e3 * seconds.least:.1f}-{1e3 * seconds.most:.1f})",
                    f"{batch / seconds.median:,.0f}",
                    f"{flops / seconds.median / 1e12:.1f}",
                    f"{top.mfu(flops, seconds.median, precision):.0%}",
                    f"{eager / seconds.median:.2f}",
                    memory(device),
                    f"{first:.1f}",
                )
            )
            del network, step
    head = (
        "forward",
        "how",
        "ms a step median (min-max)",
        "images/s",
        "TFLOP/s",
        "MFU",
        "times eager",
        "GiB",
        "first step s",
    )
    return f"{flops / batch / 1e9:.1f} GFLOP a picture, batch {batch}.\n\n{common.table(head, rows, texts=2)}"


def dit_network(sizes: Sizes) -> nn.Module:
    return backbones.DiT(channels=LATENT[0], rank=2, width=sizes.dit_width, depth=sizes.dit_depth, patch=2)


def dit_section(device: torch.device, sizes: Sizes, top: peak.Peak) -> str:
    if not hasattr(backbones, "DiT"):
        return "Not measured: kakusan.nn has no DiT."
    return training_rows(lambda: dit_network(sizes), LATENT, sizes.dit_batch, device, sizes, top)


def unet_network(sizes: Sizes) -> nn.Module:
    return backbones.UNet.for_data(PICTURE[0], PICTURE[1:], width=sizes.unet_width)


def unet_section(device: torch.device, sizes: Sizes, top: peak.Peak) -> str:
    plain = training_rows(lambda: unet_network(sizes), PICTURE, sizes.unet_batch, device, sizes, top)
    last = training_rows(lambda: with_channels_last(unet_network(sizes)), PICTURE, sizes.unet_batch, device, sizes, top)
    return f"{plain}\n\nWith `--channels-last True`:\n\n{last.partition(chr(10) * 2)[2]}"


def with_channels_last(network: nn.Module) -> nn.Module:
    levers.pull(network, levers.Levers(channels_last=True))
    return network


def attention_section(device: torch.device, sizes: Sizes, top: peak.Peak) -> str:
    """Fused kernels against attention written out, bf16, forward and backward."""
    rows = []
    for tokens in (256, 1024, 4096):
        heads, width, batch = 12, 64, max(1, sizes.dit_batch * 64 // tokens)
        q, k, v = torch.randn(3, batch, heads, tokens, width, device=device, dtype=torch.bfloat16)
        inputs = tuple(y.requires_grad_() for y in (q, k, v))
        flops = 3 * 4 * batch * heads * tokens**2 * width
        written_out = None
        for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):

            def run(inputs: tuple[Tensor, ...] = inputs) -> None:
                F.scaled_dot_product_attention(*inputs).sum().backward()

            try:
                with sdpa_kernel(backend):
                    memory(device)
                    seconds = timed(run, device, sizes)
            except RuntimeError as error:
                rows.append(
                    (f"{tokens:,}", backend.name, f"not here: {str(error).splitlines()[0][:60]}", "", "", "", "")
                )
                continue
            written_out = seconds.median if written_out is None else written_out
            rows.append(
                (
                    f"{tokens:,}",
                    backend.name,
                    f"{1e3 * seconds.median:.2f}",
                    f"{flops / seconds.median / 1e12:.1f}",
                    f"{top.mfu(flops, seconds.median, 'bf16'):.0%}",
                    f"{written_out / seconds.median:.1f}",
                    memory(device),
                )
            )
    head = ("tokens", "kernel", "ms", "TFLOP/s", "MFU", "times written out", "GiB")
    return common.table(head, rows, texts=2)


def sampling_section(device: torch.device, sizes: Sizes, top: peak.Peak) -> str:
    """Pictures by DDIM: eager, compiled, and each evaluation one CUDA graph."""
    import kakusan
    from kakusan import grids
    from kakusan.parameterizations import V
    from kakusan.samplers import DDIM
    from kakusan.schedule_tables import Tabulated

    torch.manual_seed(0)
    network = stir(unet_network(sizes).to(device)).eval()
    flops = sizes.num * sizes.steps * count.flops(network, PICTURE)
    shape = (sizes.num, *PICTURE)
    torch.compiler.reset()
    ways: dict[str, Callable[[], nn.Module]] = {
        "eager": lambda: network,
        "compiled": lambda: torch.compile(copy.deepcopy(network)),
    }
    if device.type == "cuda":
        ways["CUDA graphs"] = lambda: network
    rows, eager, reference = [], None, None
    for name, way in ways.items():
        denoiser = kakusan.Denoiser(way(), Tabulated.linear(), V(), sigma_data=0.5).eval().to(device)
        grid = grids.uniform(denoiser.schedule, sizes.steps)

        def draw(denoiser: kakusan.Denoiser = denoiser, grid: Tensor = grid) -> Tensor:
            return kakusan.sample(denoiser, DDIM(), grid, shape, device=device)

        graphs = graphs_of(network).active() if name == "CUDA graphs" else contextlib.nullcontext()
        with torch.no_grad(), autocast(device, "bf16"), graphs:
            memory(device)
            pictures = draw()
            seconds = common.Spread.of(common.seconds(lambda draw=draw: (draw(), wait(device)), repeats=5))
        eager = seconds.median if eager is None else eager
        reference = pictures if reference is None else reference
        apart = float((pictures - reference).norm() / reference.norm())
        rows.append(
            (
                name,
                seconds.text(".3f"),
                f"{1e3 * seconds.median / sizes.steps:.2f}",
                f"{flops / seconds.median / 1e12:.2f}",
                f"{top.mfu(flops, seconds.median, 'bf16'):.0%}",
                f"{eager / seconds.median:.2f}",
                memory(device),
                f"{apart:.1e}",
            )
        )
    head = ("how", "seconds", "ms/step", "TFLOP/s", "MFU", "times eager", "GiB", "apart from eager")
    return f"{sizes.num} pictures, {sizes.steps} steps.\n\n{common.table(head, rows)}"


def data_section(device: torch.device, sizes: Sizes, top: peak.Peak) -> str:
    """Batches of a set of uint8 pictures as float32 on the device: kept there, or copied for every step."""
    pictures = torch.randint(0, 256, (8192, *PICTURE), dtype=torch.uint8)
    batch = sizes.unet_batch
    order = torch.randint(0, len(pictures), (batch,))
    here, order_here = pictures.to(device), order.to(device)
    pinned = torch.empty(batch, *PICTURE, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def resident() -> Tensor:
        return here.index_select(0, order_here).float().div_(127.5).sub_(1.0)

    def bytes_each_step() -> Tensor:
        torch.index_select(pictures, 0, order, out=pinned)
        return pinned.to(device, non_blocking=True).float().div_(127.5).sub_(1.0)

    def floats_each_step() -> Tensor:
        return pictures.index_select(0, order).float().div_(127.5).sub_(1.0).to(device)

    ways = {
        "resident on the device, uint8": resident,
        "from the host, pinned uint8, made float there": bytes_each_step,
        "from the host, float32": floats_each_step,
    }
    rows = []
    for name, way in ways.items():
        seconds = timed(way, device, sizes)
        rows.append((name, f"{1e3 * seconds.median:.3f}", f"{batch / seconds.median:,.0f}"))
    text = common.table(("batches", f"ms for {batch} pictures", "images/s"), rows)
    return f"{text}\n\nThe set takes {here.nelement() / 2**20:.0f} MiB on the device as uint8."


SECTIONS: dict[str, tuple[str, Callable[[torch.device, Sizes, peak.Peak], str]]] = {
    "dit": ("Training DiT-B at 256 tokens", dit_section),
    "unet": (f"Training a U-Net on {PICTURE[1]}x{PICTURE[2]}", unet_section),
    "attention": ("Fused attention", attention_section),
    "sampling": (f"Sampling the U-Net on {PICTURE[1]}x{PICTURE[2]}", sampling_section),
    "data": ("Data on the device", data_section),
}


def measure(device: torch.device, sizes: Sizes, only: tuple[str, ...]) -> str:
    """The page."""
    top = peak.measure(device, budget=1.0)
    print(top.text(), flush=True)
    parts = []
    for name, (title, section) in SECTIONS.items():
        if name in only:
            parts.append(f"## {title}\n\n{section(device, sizes, top)}\n")
            print(parts[-1], flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else common.cpu_name()
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    return PAGE.format(
        what=what, versions=versions, date=time.strftime("%F"), top=top.text(), parts="\n".join(parts).rstrip()
    )


def flowers(data: Path, out: Path, minutes: float, piece: float) -> None:
    """One piece of the class-conditional run; started again, the next."""
    from kakusan.cli.train import Progress, base_settings
    from kakusan.config import merge
    from kakusan.train.run import TrainingRun
    from kakusan.train.trainer import TrainStep

    settings = base_settings(["--out", str(out)])
    if not (out / "config.toml").is_file():
        settings = merge(
            settings,
            {
                "data": {"source": str(data), "size": PICTURE[1], "flip": True},
                "model": {"width": 128, "conditional": True},
                "run": {"minutes": minutes, "batch": 128, "precision": "bf16"},
            },
        )
    end = time.monotonic() + 60.0 * piece
    progress = Progress()

    def watch(step: TrainStep, run: TrainingRun) -> None:
        progress(step, run)
        if time.monotonic() > end:
            run.stop = "the end of its piece"

    run = TrainingRun(settings, out, say=progress.say, on_step=watch)
    run.run()
    progress.close()
    state = "finished" if run.stop is None else "not finished; the same command goes on"
    print(f"step {run.trainer.step} of {run.trainer.steps}, {run.elapsed() / 60:.1f} minutes in all: {state}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=("peak", *SECTIONS), default=tuple(SECTIONS))
    parser.add_argument("--write", action="store_true", help=f"write {OUT.relative_to(common.ROOT)}")
    parser.add_argument("--flowers", type=Path, help="zip or folder of Oxford flowers, a sub-folder for each class")
    parser.add_argument("--out", type=Path, default=Path("runs/flowers"), help="folder of the run of --flowers")
    parser.add_argument("--minutes", type=float, default=20.0, help="length of the whole run")
    parser.add_argument("--piece", type=float, default=8.0, help="minutes of this piece")
    parser.add_argument("--try-on-cpu", action="store_true", help="tiny sizes without a GPU, to try the script")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.try_on_cpu:
        print("There is no CUDA device here: nothing measured.")
        return
    if options.flowers is not None:
        flowers(options.flowers, options.out, options.minutes, options.piece)
        return
    device = torch.device("cpu" if options.try_on_cpu else "cuda")
    page = measure(device, SMALL if options.try_on_cpu else Sizes(), tuple(options.only))
    common.finish(page, OUT if options.write and device.type == "cuda" else None)


PAGE = """# On a GPU

    python benchmarks/on_cuda.py --write

{what}, {versions}, {date}.
{top}

GFLOP are nominal: matrix products and convolutions of the direct form, attention written out, forward and backward.
MFU is their rate over the peak in the format of the forward pass. A training step is forward, MSE, backward and fused
AdamW; weights are float32, "bf16" is autocast.

{parts}
"""

if __name__ == "__main__":
    main()
