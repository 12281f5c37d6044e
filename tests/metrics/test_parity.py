"""The distances beside torchmetrics and torch-fidelity on the same features; skipped where they are not installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

for peer in ("torchmetrics", "torch_fidelity"):
    # Not importorskip: they cannot be imported before torchvision is stood in for.
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed (benchmarks/metric_parity.py says how)", allow_module_level=True)


@pytest.fixture(scope="module")
def rows():
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import metric_parity

        return metric_parity.compare(metric_parity.open_peers())
    finally:
        sys.path.remove(folder)


def test_both_sides_agree(rows):
    assert {(row.distance, row.peer.split()[0]) for row in rows} >= {
        ("frechet", "torchmetrics"),
        ("frechet", "torch-fidelity"),
        ("kernel", "torchmetrics"),
        ("kernel", "torch-fidelity"),
        ("precision", "torch-fidelity"),
        ("recall", "torch-fidelity"),
    }
    off = [(row.case, row.distance, row.peer, row.relative) for row in rows if not row.relative <= 1e-4]
    assert not off


def test_torchvision_is_not_left_behind(rows):
    assert "torchvision" not in sys.modules or importlib.util.find_spec("torchvision") is not None
