"""Peak arithmetic of this machine, measured, and how much of it some work reaches (MFU).

    python benchmarks/peak.py [--threads 2] [--device cpu]

MFU, the model FLOP utilisation, is nominal FLOPs over time over the peak. FLOPs are nominal when they are those of the
direct algorithm, two for each multiply-add of matrix products and convolutions, whatever algorithm ran: minimal
filtering does fewer, and work that is done again (checkpointing) is not counted twice. The peak is the best of a
matrix product and a convolution in the same number format, measured in the same run, since a data sheet says nothing
about a shared virtual machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import common  # noqa: F401 (puts the package on the path)
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kakusan import runtime


@dataclass(frozen=True)
class Peak:
    """FLOP/s of one machine.

    Args:
        device: where it was measured.
        threads: of the CPU.
        products: best rate of a square matrix product, by number format ("fp32", "bf16").
        convolutions: best rate of a 3x3 convolution with 128 channels, likewise.
    """

    device: str
    threads: int
    products: dict[str, float]
    convolutions: dict[str, float]

    def best(self, precision: str = "fp32") -> float:
        """The peak in a number format."""
        return max(self.products[precision], self.convolutions[precision])

    def mfu(self, flops: float, seconds: float, precision: str = "fp32") -> float:
        """Nominal `flops` in `seconds`, as a fraction of the peak."""
        return flops / seconds / self.best(precision)

    def text(self) -> str:
        """One sentence for a page."""
        parts = [
            f"{precision} {self.products[precision] / 1e9:,.4g} GFLOP/s in a matrix product and "
            f"{self.convolutions[precision] / 1e9:,.4g} in a 3x3 convolution"
            for precision in self.products
        ]
        where = f"{self.threads} threads" if self.device == "cpu" else self.device
        return f"Peak measured in the same run ({where}): {'; '.join(parts)}."


def measure(device: torch.device | str = "cpu", *, threads: int | None = None, budget: float = 0.5) -> Peak:
    """Measure the peak; `budget` seconds for each of the four rates.

    Raises:
        ValueError: `budget` is not positive.
    """
    if not budget > 0.0:
        raise ValueError(f"budget is in seconds and must be positive, got {budget}")
    device = torch.device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    fast = device.type != "cpu"
    products, convolutions = {}, {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        # A CPU without bfloat16 instructions is a hundred times slower in it, so the first try is a small one.
        slow = not fast and runtime.pick_precision("auto", device).name != precision == "bf16"
        size = 8192 if fast else (256 if slow else 1024)
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        products[precision] = _rate(lambda a=a, b=b: a @ b, 2 * size**3, device, budget)
        batch, side = (256, 64) if fast else ((1, 16) if slow else (32, 16))
        x = torch.randn(batch, 128, side, side, device=device).to(dtype, memory_format=torch.channels_last)
        w = torch.randn(128, 128, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
        flops = 2 * 9 * 128 * 128 * batch * side * side
        with torch.no_grad():
            convolutions[precision] = _rate(lambda x=x, w=w: F.conv2d(x, w, padding=1), flops, device, budget)
    return Peak(str(device), torch.get_num_threads(), products, convolutions)


def _rate(run: Callable[[], object], flops: float, device: torch.device, budget: float) -> float:
    """Best FLOP/s of calls that take about `budget` seconds in all, two at least."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    run()
    wait()
    best, calls, end = float("inf"), 0, time.perf_counter() + budget
    while calls < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        wait()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return flops / best


def count(run: Callable[[], object]) -> int:
    """Nominal FLOPs of a call, which should work on the meta device: then nothing is computed.

    Attention is written out while counting, so that every product of every library is seen.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(measure(options.device, threads=options.threads).text())


if __name__ == "__main__":
    main()
