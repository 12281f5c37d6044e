"""What benchmarks share: rounds of workers in processes of their own, spreads, memory, pages and figures."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Spread:
    """Median, least and most of some measurements."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        seen = sorted(values)
        return cls(statistics.median(seen), seen[0], seen[-1])

    def text(self, form: str = ".2f") -> str:
        """`median (least-most)`."""
        return f"{self.median:{form}} ({self.least:{form}}-{self.most:{form}})"


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of log y against log x: the power with which y grows."""
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)]
    mean_x, mean_y = (statistics.fmean(column) for column in zip(*logs, strict=True))
    return sum((a - mean_x) * (b - mean_y) for a, b in logs) / sum((a - mean_x) ** 2 for a, _ in logs)


def seconds(run: Callable[[], object], *, repeats: int, warm: int = 1) -> list[float]:
    """Wall seconds of each of `repeats` calls after `warm` others."""
    times = []
    for turn in range(warm + repeats):
        start = time.perf_counter()
        run()
        if turn >= warm:
            times.append(time.perf_counter() - start)
    return times


class Worker:
    """A script in a process of its own that says facts first and then answers each line with one measurement.

    Settings of the process (allocator, matrix products) then belong to one contestant, and the others sleep meanwhile.

    Args:
        script: the benchmark; it must answer `--worker NAME` by calling `serve`.
        name: the contestant.
        arguments: more of the command line.
    """

    def __init__(self, script: str, name: str, *arguments: str) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, script, "--worker", name, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "TQDM_DISABLE": "1"},
        )
        self.facts: dict[str, Any] = self._line()

    def _line(self) -> Any:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise RuntimeError(f"a worker ended with status {self.process.wait()}; its error is above")
        return json.loads(text)

    def measure(self) -> float:
        """One measurement, in seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def serve(facts: Mapping[str, Any], run: Callable[[], object]) -> None:
    """The other side of `Worker`: facts on the first line, then seconds of one call for each line read."""
    print(json.dumps(dict(facts)), flush=True)
    for _ in sys.stdin:
        print(json.dumps(seconds(run, repeats=1, warm=0)[0]), flush=True)


def interleaved(workers: Mapping[str, Worker], rounds: int, *, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each worker in each round; all take turns, so a slow moment of the machine slows all of a round."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(warm + rounds):
        for name, worker in workers.items():
            taken = worker.measure()
            if turn >= warm:
                times[name].append(taken)
    return times


def peak_memory(run: Callable[[], object]) -> int | None:
    """Bytes that the process grew by, at most, during one call; None where the system does not say (Linux does).

    Call it before `kakusan.runtime.tune`, which makes the process keep what it freed.
    """
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    try:
        reset.write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def installed(name: str) -> str | None:
    """Version of a package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Model of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        return {k.strip(): v.strip() for k, v in fields.items()}.get("model name", platform.machine())
    return platform.processor() or platform.machine()


def machine(threads: int) -> str:
    """One sentence on where and when this was measured."""
    import torch

    versions = ", ".join(
        f"{name} {installed(name)}" for name in ("diffusers", "denoising-diffusion-pytorch", "azula") if installed(name)
    )
    return (
        f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}, {threads} threads, torch {torch.__version__}"
        f"{', ' + versions if versions else ''}, {time.strftime('%F')}; load average when done "
        f"{os.getloadavg()[0]:.1f} (this benchmark alone makes {threads})."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, texts: int = 1) -> str:
    """A Markdown table; the first `texts` columns are left-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * texts + "---:|" * (len(head) - texts)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def finish(page: str, out: Path | None) -> None:
    """Print a page, and write it when `out` is given."""
    print(page)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page.rstrip() + "\n", encoding="utf-8")


def log_axes(figure: Figure, title: str, x: str, y: str, where: tuple[int, int, int]) -> Any:
    """Axes in the project's style, both logarithmic, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from kakusan.report import style

    axes = style.style_axes(figure.add_subplot(*where), size=9)
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=10, color=style.INK, loc="left")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    return axes


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG in the project's style."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from kakusan.report import style

    style.use_bundled_font(figure)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130, facecolor=style.PAPER)
