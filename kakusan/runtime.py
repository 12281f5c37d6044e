"""Settings of the whole process that make training and sampling faster, applied by one explicit call.

None of them changes what is computed beyond float32 rounding. What was applied is returned as plain facts, for
`env.json`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BLOCKS_BELOW = 1 << 30
_NEVER_TRIM = -1
# mman.h
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 << 20
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
# The heap is told about huge pages in parts that stay below `_KEEP_BLOCKS_BELOW`, and up to so many bytes.
_PART, _LARGEST_HEAP = 512 << 20, 64 << 30

# "medium" may round float32 products to bfloat16 (errors near 1e-2); exact kernels stay near 1e-7.
_EXACT_ENOUGH = 2.0


@dataclass(frozen=True)
class RuntimeFacts:
    """What `tune` applied.

    Args:
        device: the device it was applied for.
        threads: threads inside one operation on the CPU.
        allocator: freed memory is kept by the process, so big tensors cost no page faults.
        huge_pages: tensors lie in pages of 2 MiB, as far as the system has them.
        matmul_precision: torch's float32 matmul precision now.
        cpu: vector instructions torch uses ("AVX2", "AVX512", ...).
        fast_convolution: 3x3 convolutions train by minimal filtering (`kakusan.nn.winograd`).
    """

    device: str
    threads: int
    allocator: bool
    huge_pages: bool
    matmul_precision: str
    cpu: str
    fast_convolution: bool


@dataclass(frozen=True)
class Precision:
    """Number format of forward passes on one device; weights stay float32.

    Args:
        name: "fp32" or "bf16".
        device_type: "cpu", "cuda" or "mps".
    """

    name: str
    device_type: str

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """A context for forward passes."""
        import torch

        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=torch.bfloat16)

    def around(self, network: torch.nn.Module) -> None:
        """Let a network compute in this format from now on, whoever calls it; what it returns is float32 again."""
        import torch

        if self.name == "fp32":
            return
        entered: list[torch.autocast] = []

        def enter(*_: object) -> None:
            # Casts of weights are not kept: they would not outlive this pass, and a recorded graph must not hold them.
            context = torch.autocast(self.device_type, dtype=torch.bfloat16, cache_enabled=False)
            context.__enter__()
            entered.append(context)

        def leave(_: torch.nn.Module, __: object, out: torch.Tensor | None) -> torch.Tensor | None:
            entered.pop().__exit__(None, None, None)
            return None if out is None else out.float()

        network.register_forward_pre_hook(enter)
        network.register_forward_hook(leave, always_call=True)


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the fastest there is.

    Raises:
        ValueError: no such device on this machine.
    """
    import torch

    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
        available += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        raise ValueError(f"there is no device {name!r} here; choose auto, {', '.join(available)}")
    return torch.device(name)


def tune(*, threads: int | None = None, device: torch.device | None = None, lasting: bool = False) -> RuntimeFacts:
    """Apply the settings to this process. Calling it again is harmless.

    Args:
        threads: CPU threads inside one operation; None keeps torch's choice, but never more than the CPUs allowed.
        device: where the work will run; None is the CPU.
        lasting: it will run for many minutes, so what costs seconds now and saves a few per cent is worth it.

    Raises:
        ValueError: fewer than one thread.
    """
    import torch

    from kakusan.nn import winograd

    kind = "cpu" if device is None else device.type
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads or min(torch.get_num_threads(), _allowed_cpus()))
    if kind == "cpu" and torch.get_float32_matmul_precision() == "highest" and _medium_is_exact():
        torch.set_float32_matmul_precision("medium")
    allocator = _keep_memory()
    # Other threads have heaps of their own, which do not grow.
    grows = allocator and threading.current_thread() is threading.main_thread()
    if lasting and kind == "cpu" and grows and not _huge_pages:
        _huge_pages.append(_told_of_huge_pages())
    return RuntimeFacts(
        device=kind if device is None else str(device),
        threads=torch.get_num_threads(),
        allocator=allocator,
        huge_pages=any(_huge_pages),
        matmul_precision=torch.get_float32_matmul_precision(),
        cpu=torch.backends.cpu.get_cpu_capability(),
        fast_convolution=kind == "cpu" and winograd.allowed(),
    )


def pick_precision(name: str, device: torch.device) -> Precision:
    """The number format called `name` ("fp32", "bf16" or "auto") on `device`.

    "auto" is bfloat16 where the hardware multiplies it natively and float32 elsewhere. float16 is never chosen: CPUs
    emulate it a hundred times slower, and it overflows.

    Raises:
        ValueError: another name.
    """
    if name not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision must be auto, fp32 or bf16, got {name!r}")
    if name == "auto":
        name = "bf16" if _native_bfloat16(device) else "fp32"
    return Precision(name, device.type)


def peak_memory(device: torch.device) -> int:
    """Most bytes used so far: by tensors on an accelerator, by the process on the CPU (0 where that is not known)."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        # The high-water mark of this program alone: `getrusage` goes on from that of the process that started it.
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def give_way(threshold: float = 0.4) -> bool:
    """Let threads that wait for each other sleep, when other work keeps this machine busy; call it before torch loads.

    OpenMP's threads spin while they wait, for speed. Beside another busy process they then spin on cores that the
    thread they wait for needs: two trainings of two threads each ran at 35% of their speed on two cores, and at 63%
    with sleeping threads, which cost 4% where nothing else runs. `OMP_WAIT_POLICY`, when set, is left as it is.

    Args:
        threshold: share of all cores' time that counts as busy.

    Returns:
        Whether the policy was set.
    """
    if _torch_is_loaded() or "OMP_WAIT_POLICY" in os.environ:
        return False
    share = _busy_share()
    if share is None or share < threshold:
        return False
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True


def _torch_is_loaded() -> bool:
    return "torch" in sys.modules


def _busy_share(seconds: float = 0.15) -> float | None:
    """Share of all cores' time in use, watched for a moment; None where the system does not say."""
    first = _core_times()
    if first is None:
        return None
    time.sleep(seconds)
    second = _core_times()
    if second is None or sum(second) <= sum(first):
        return None
    # Idle, and waiting for a disk.
    idle = sum(second[3:5]) - sum(first[3:5])
    return 1.0 - idle / (sum(second) - sum(first))


def _core_times() -> list[int] | None:
    """Ticks of all cores by kind, as /proc/stat of Linux lists them."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            return [int(field) for field in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still get on a device; None where that is not known.

    On the CPU what the system calls available, and no more than the control group (a container, a Slurm job) allows.
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return _free_host_memory() if device.type == "cpu" else None


def _free_host_memory() -> int | None:
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found) if found else None


def _allowed_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _keep_memory() -> bool:
    """Tell glibc not to give big blocks back to the system, nor to map each on its own.

    Every new page otherwise costs a fault, and a training step allocates its activations anew each time: the whole step
    takes 1.1 to 1.7 times as long, depending on the machine. Other C libraries are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEEP_BLOCKS_BELOW)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM))


# Whether the heap lies in huge pages, once they were asked for: a process asks once.
_huge_pages: list[bool] = []


def _told_of_huge_pages() -> bool:
    """Let tensors lie in huge pages, where the system gives them to those who ask. After `_keep_memory`, if that did.

    The heap grows by as much as is free, is told so, and shrinks again only in malloc's books: that takes addresses and
    no memory, and holds for all that is put there later. Where addresses are limited or counted as memory, nothing is
    done. Steps then take up to 6% less time, and the first use of a page more: 0.7 s for a GiB on a virtual machine.
    """
    if not sys.platform.startswith("linux") or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return False
    try:
        policy, counted = _HUGE_PAGES.read_text(), _OVERCOMMIT.read_text().strip()
        libc = ctypes.CDLL(None)
        malloc, free, madvise = libc.malloc, libc.free, libc.madvise
    except (OSError, AttributeError):
        return False
    if "[madvise]" not in policy:
        return "[always]" in policy
    import resource

    limits = (resource.getrlimit(of)[0] for of in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if counted == "2" or any(limit != resource.RLIM_INFINITY for limit in limits):
        return False
    malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    count = min(_free_host_memory() or 0, _LARGEST_HEAP) // _PART
    parts = [part for part in (malloc(_PART) for _ in range(count)) if part]
    told = False
    # Between parts lie malloc's own few bytes. More would be somebody else's.
    if parts and max(parts) + _PART - min(parts) < len(parts) * (_PART + _HUGE_PAGE):
        first = -(-min(parts) // _HUGE_PAGE) * _HUGE_PAGE
        told = madvise(first, max(parts) + _PART - first, _MADV_HUGEPAGE) == 0
    for part in reversed(parts):
        free(part)
    return told


def _medium_is_exact() -> bool:
    """Whether "medium" float32 products are as exact on this CPU as the default ones, checked on one product.

    Where they are, the setting only lets another, often twice faster, library do the work.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 192, 192, generator=generator)
    exact = a.double() @ b.double()
    before = torch.get_float32_matmul_precision()
    errors = {}
    try:
        for setting in ("highest", "medium"):
            torch.set_float32_matmul_precision(setting)
            errors[setting] = float(((a @ b) - exact).norm() / exact.norm())
    finally:
        torch.set_float32_matmul_precision(before)
    return errors["medium"] <= _EXACT_ENOUGH * errors["highest"]


def _native_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # Private names of torch, so their absence means no.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
