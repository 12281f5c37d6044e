"""Process-wide settings: applied once, stated as facts, never inexact."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

from kakusan import runtime


@pytest.fixture(autouse=True)
def restored():
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def test_facts_are_json_and_stable():
    first, second = runtime.tune(threads=1), runtime.tune(threads=1)
    assert first == second
    assert first.threads == torch.get_num_threads() == 1
    assert json.loads(json.dumps(dataclasses.asdict(first))) == dataclasses.asdict(first)


def test_products_stay_exact():
    runtime.tune()
    generator = torch.Generator().manual_seed(5)
    a, b = torch.randn(2, 256, 256, generator=generator)
    exact = a.double() @ b.double()
    assert ((a @ b) - exact).norm() / exact.norm() < 1e-6


def test_an_inexact_setting_is_not_taken(monkeypatch):
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(runtime, "_medium_is_exact", lambda: False)
    assert runtime.tune().matmul_precision == "highest"


def test_a_choice_made_by_the_user_is_kept():
    torch.set_float32_matmul_precision("high")
    assert runtime.tune().matmul_precision == "high"


def test_threads_are_checked():
    with pytest.raises(ValueError, match="at least 1"):
        runtime.tune(threads=0)


def test_devices():
    assert runtime.pick_device("cpu") == torch.device("cpu")
    assert runtime.pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="cpu"):
        runtime.pick_device("abacus")


def test_precision_follows_the_hardware(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(runtime, "_native_bfloat16", lambda device: False)
    assert runtime.pick_precision("auto", cpu).name == "fp32"
    monkeypatch.setattr(runtime, "_native_bfloat16", lambda device: True)
    assert runtime.pick_precision("auto", cpu).name == "bf16"
    with pytest.raises(ValueError, match="fp32"):
        runtime.pick_precision("fp16", cpu)


def test_autocast_does_what_its_name_says():
    cpu = torch.device("cpu")
    a = torch.ones(2, 2)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with runtime.pick_precision(name, cpu).autocast():
            assert (a @ a).dtype == dtype


def test_peak_memory_grows():
    before = runtime.peak_memory(torch.device("cpu"))
    block = torch.ones(64 << 20)
    assert runtime.peak_memory(torch.device("cpu")) - before > 0.5 * block.nbytes


HUGE_PAGES = """
import re, sys, torch
from pathlib import Path
from kakusan import runtime

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

runtime.tune(threads=1)  # what is loaded on the way is not counted
assert not runtime.tune(threads=1).huge_pages
before = resident()
facts = runtime.tune(threads=1, lasting=True)
assert runtime.tune(threads=1) == facts
assert resident() - before < 16 << 20, "memory was taken"
if not facts.huge_pages or "[always]" in runtime._HUGE_PAGES.read_text():
    sys.exit(77)
block = torch.ones(16 << 20)
for area in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())[1:]:
    first, past = (int(end, 16) for end in area.split()[0].split("-"))
    if first <= block.data_ptr() + block.nbytes // 2 < past:
        assert "hg" in re.search("VmFlags:(.*)", area)[1].split()
        sys.exit(0)
sys.exit("the tensor lies nowhere")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are asked for on Linux")
def test_tensors_lie_where_huge_pages_were_asked_for():
    done = subprocess.run([sys.executable, "-c", HUGE_PAGES], check=False, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this system does not give huge pages to those who ask")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("policy", "counted", "expected"), [("always [madvise] never", "2", False), ("[always] madvise never", "0", True)]
)
def test_huge_pages_are_asked_for_only_where_that_takes_no_memory(tmp_path, monkeypatch, policy, counted, expected):
    for name, text in (("_HUGE_PAGES", policy), ("_OVERCOMMIT", counted)):
        (tmp_path / name).write_text(text + "\n")
        monkeypatch.setattr(runtime, name, tmp_path / name)
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert runtime._told_of_huge_pages() is expected
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert not runtime._told_of_huge_pages()
    monkeypatch.setattr(runtime, "_HUGE_PAGES", tmp_path / "absent")
    monkeypatch.delenv("LD_PRELOAD")
    assert not runtime._told_of_huge_pages()


def test_import_leaves_torch_out():
    code = "import sys, kakusan.runtime; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def before_torch(monkeypatch):
    """As in a fresh process that has not imported torch, in an environment of its own."""
    monkeypatch.setattr(runtime, "_torch_is_loaded", lambda: False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")


@pytest.mark.parametrize(("busy", "sleeps"), [(0.0, False), (0.39, False), (0.41, True), (1.0, True)])
def test_threads_give_way_on_a_busy_machine(monkeypatch, before_torch, busy, sleeps):
    ticks = iter(
        [[100, 0, 0, 500, 100, 0, 0, 0], [100 + round(100 * busy), 0, 0, 600 - round(100 * busy), 100, 0, 0, 0]]
    )
    monkeypatch.setattr(runtime, "_core_times", lambda: next(ticks))
    assert runtime.give_way() is sleeps
    assert os.environ.get("OMP_WAIT_POLICY") == ("PASSIVE" if sleeps else None)


def test_threads_wait_as_told_and_where_nothing_is_known(monkeypatch, before_torch):
    monkeypatch.setattr(runtime, "_core_times", lambda: None)
    assert not runtime.give_way()
    monkeypatch.setattr(runtime, "_busy_share", lambda: 1.0)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert not runtime.give_way()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_loaded_torch_is_left_alone(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(runtime, "_busy_share", lambda: 1.0)
    assert not runtime.give_way()
