"""Laws of the benchmarks' own arithmetic: FLOPs against closed forms, slopes and spreads against exact ones."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kakusan.nn import LinearAttention, SoftmaxAttention, count


@pytest.fixture(scope="module")
def benchmarks():
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield {name: importlib.import_module(name) for name in ("common", "peak")}
    finally:
        sys.path.remove(folder)


def on_meta(*shape):
    return torch.empty(shape, device="meta", requires_grad=True)


def test_linear_counts_two_for_each_multiply_add(benchmarks):
    x, w = on_meta(5, 7), on_meta(11, 7)
    assert benchmarks["peak"].count(lambda: F.linear(x, w)) == 2 * 5 * 7 * 11
    # Backward makes one such product for each of the two operands.
    assert benchmarks["peak"].count(lambda: F.linear(x, w).sum().backward()) == 3 * 2 * 5 * 7 * 11


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_counts_the_direct_form(benchmarks, stride):
    x, w = on_meta(2, 3, 8, 10), on_meta(5, 3, 3, 3)
    outputs = 2 * 5 * (8 // stride) * (10 // stride)
    assert benchmarks["peak"].count(lambda: F.conv2d(x, w, padding=1, stride=stride)) == outputs * 2 * 3 * 9


def test_attention_counts_both_products_whatever_kernel_would_run(benchmarks):
    q, k, v = on_meta(2, 3, 16, 8), on_meta(2, 3, 12, 8), on_meta(2, 3, 12, 8)
    expected = 2 * 2 * 3 * 16 * 12 * (8 + 8)
    assert benchmarks["peak"].count(lambda: F.scaled_dot_product_attention(q, k, v)) == expected


@pytest.mark.parametrize("side", [3, 8])
def test_attention_modules_count_by_their_closed_forms(benchmarks, side):
    width, heads, tokens = 16, 2, side * side
    projections = 2 * tokens * width * 4 * width
    soft = SoftmaxAttention(heads=heads).build(width).to("meta")
    x = on_meta(1, width, side, side)
    assert benchmarks["peak"].count(lambda: soft(x)) == projections + 2 * 2 * tokens**2 * width
    linear = LinearAttention(heads=heads).build(width).to("meta")
    assert benchmarks["peak"].count(lambda: linear(x)) == projections + 2 * 2 * tokens * width * width // heads


def test_package_and_benchmarks_count_alike(benchmarks):
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 3, 3, padding=1)
            self.attention = SoftmaxAttention(heads=1).build(3)

        def forward(self, x, c_noise, cond=None):
            return self.attention(self.convolution(x))

    network, shape = Network(), (3, 6, 4)
    traced = Network().to("meta")
    own = count.flops(network, shape)
    assert own == benchmarks["peak"].count(lambda: traced(on_meta(1, *shape), None))
    assert own == 24 * 3 * 2 * 3 * 9 + 2 * 24 * 3 * 12 + 2 * 2 * 24**2 * 3


def test_slope_is_the_power(benchmarks):
    x = [1.0, 3.0, 10.0, 40.0]
    assert benchmarks["common"].slope(x, [7.0 * a**1.5 for a in x]) == pytest.approx(1.5, abs=1e-12)


def test_spread(benchmarks):
    spread = benchmarks["common"].Spread.of([3.0, 1.0, 2.0, 10.0])
    assert (spread.median, spread.least, spread.most) == (2.5, 1.0, 10.0)
    assert spread.text(".1f") == "2.5 (1.0-10.0)"


def test_mfu_is_work_over_time_over_the_best_rate(benchmarks):
    top = benchmarks["peak"].Peak("cpu", 1, {"fp32": 4e9, "bf16": 1e9}, {"fp32": 2e9, "bf16": 3e9})
    assert top.mfu(1e9, 0.5) == pytest.approx(0.5)
    assert top.mfu(1e9, 0.5, "bf16") == pytest.approx(2 / 3)


def test_peak_is_positive_and_budget_checked(benchmarks):
    with pytest.raises(ValueError, match="budget"):
        benchmarks["peak"].measure(budget=0.0)
    top = benchmarks["peak"].measure(threads=1, budget=0.01)
    assert min(top.products["fp32"], top.convolutions["fp32"]) > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not say")
def test_memory_of_a_call_is_seen(benchmarks):
    size = 64 * 2**20
    found = benchmarks["common"].peak_memory(lambda: torch.ones(size // 4))
    if found is None:
        pytest.skip("the system forbids it")
    assert 0.9 * size < found < 1.5 * size
