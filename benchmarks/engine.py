"""Every training lever by the time it takes to a fixed held-out loss, with and without.

    python benchmarks/engine.py --seconds 120 --threads 2 --write     # all of them; may be stopped and started again
    python benchmarks/engine.py plain muon-2e-3 --seconds 120 --threads 2 --seeds 0 1 2
    python benchmarks/engine.py --seconds 120 --threads 2 --write-only    # only the page, from what has run
    python benchmarks/engine.py --list

The plain run (AdamW, fp32, eager, torch as it comes) trains for the given seconds and its last held-out loss is the
mark. Each lever trains in a process of its own from the same seed; one lever and seed is one JSON file in
runs/engine/<settings>/, and what is there is not run again. `together` joins the levers that gained on their own, the
best of each kind; `everything` also those that change the network; `together-without-X` leaves one out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from engine_levers import (  # noqa: E402
    EVERYTHING,
    LEVERS,
    PLAIN,
    TOGETHER,
    Lever,
    base,
    combined,
    merged,
    winners,
)
from engine_page import Records, gains, median_gain, write  # noqa: E402

from kakusan.config import TrainConfig, merge  # noqa: E402

PAGE = ROOT / "docs" / "results" / "engine.md"
WITHOUT = f"{TOGETHER}-without-"
# Of the fixed pairs, which are the same for every lever and every seed.
PAIRS_SEED = 0
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def configuration(lever: Lever, settings: Mapping[str, Any], seed: int) -> TrainConfig:
    """The configuration of a run.

    Raises:
        ValueError: a setting that this version does not have.
    """
    names = ("width", "num", "threads", "device")
    plain = base(**{name: settings[name] for name in names}, seed=seed)
    return merge(TrainConfig(), merged(plain, lever.settings))


def refusal(lever: Lever, settings: Mapping[str, Any]) -> str | None:
    """Why a lever cannot be measured here, None when it can."""
    from kakusan import building, runtime

    try:
        config = configuration(lever, settings, 0)
        building.check(config)
        device = runtime.pick_device(config.run.device)
    except ValueError as error:
        return str(error).split("; known")[0]
    if lever.native_bfloat16 and runtime.pick_precision("auto", device).name != "bf16":
        return "this device has no bfloat16 of its own"
    return None


def work(lever: Lever, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One run in this process, as a record."""
    import torch

    import kakusan.train.run as run_module
    from kakusan import runtime
    from kakusan.nn import winograd
    from kakusan.objectives import Objective, SimpleV
    from kakusan.time_samplers import Stratified, Uniform
    from kakusan.train.held_out import FixedPairs
    from kakusan.train.sources import open_parts

    def untuned(*, threads: int | None = None, device: torch.device | None = None) -> runtime.RuntimeFacts:
        if threads is not None:
            torch.set_num_threads(threads)
        precision = torch.get_float32_matmul_precision()
        facts = (str(device), torch.get_num_threads(), False, precision, torch.backends.cpu.get_cpu_capability())
        return runtime.RuntimeFacts(*facts, winograd.allowed())

    if not lever.tuned:
        runtime.tune = untuned
    winograd.allow(None if lever.fast_convolution else False)
    drawing: list[float] = []

    def open_timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        parts = open_parts(*arguments, **options)
        drawing.append(time.perf_counter() - began)
        return parts

    run_module.open_parts = open_timed
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = run_module.TrainingRun(configuration(lever, settings, seed), Path(folder) / "run", say=lambda line: None)
    for optimizers in run.trainer.optimizers:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            if "fused" in group and not lever.fused:
                group["fused"] = False
    # Independent of what the run minimises, so that every lever is held to the same measure.
    measure = Objective(Stratified(Uniform()), SimpleV())
    pairs = FixedPairs(run.held_out, measure, seed=PAIRS_SEED, count=settings["pairs"], device=run.device)
    # Drawing the flowers is the same for all and says nothing about a lever.
    setup = time.perf_counter() - began - sum(drawing)
    limit = settings["seconds"] * lever.share
    curve: list[dict[str, float]] = []

    def point(trained: float) -> None:
        values = {"seconds": trained, "steps": run.trainer.step, "average": measured(run, pairs, run.average)}
        for width in lever.averages:
            values[f"ema-{width:g}"] = measured(run, pairs, run.trainer.ema.averages[f"ema-{width:g}"])
        if lever.averages:
            values["weights"] = measured(run, pairs, None)
        curve.append(values)

    began, paused, trained = time.perf_counter(), 0.0, 0.0
    troubles = 0
    for step in run.trainer.run():
        now = time.perf_counter()
        trained = now - began - paused
        troubles += step.trouble is not None
        if lever.settings.get("optim", {}).get("decay"):
            # The rate falls towards the end of the time, at the pace seen so far.
            run.trainer.steps = max(step.step + 1, round(step.step * limit / trained))
        if trained >= limit:
            break
        if trained >= limit * (len(curve) + 1) / settings["measurements"]:
            point(trained)
            paused += time.perf_counter() - now
    point(trained)
    return {
        "lever": lever.text(),
        "seed": seed,
        "settings": dict(settings),
        "curve": curve,
        "steps": run.trainer.step,
        "images_per_second": run.trainer.samples / trained,
        "setup": setup,
        "troubles": troubles,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "memory": runtime.peak_memory(run.device),
        "machine": {
            "cpu": cpu_name(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "device": str(run.device),
        },
        "date": time.strftime("%F"),
    }


def measured(run: Any, pairs: Any, weights: Any) -> float:
    """Held-out loss, uncompiled: the shapes of measuring would be compiled anew."""
    from kakusan.train.levers import uncompiled

    with uncompiled(run.model):
        return float(pairs.measure(run.model, weights).loss)


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        return {k.strip(): v.strip() for k, v in fields.items()}.get("model name", platform.machine())
    return platform.processor() or platform.machine()


def record_path(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}--{seed}.json"


def read_records(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """All runs of a folder, by lever and seed; levers whose meaning has changed since are left out."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*--*.json")):
        name = path.stem.rpartition("--")[0]
        record = json.loads(path.read_text(encoding="utf-8"))
        if name not in LEVERS or LEVERS[name].text() == record["lever"]:
            found.setdefault(name, {})[int(record["seed"])] = record
    order = [*LEVERS, TOGETHER, EVERYTHING]
    return {name: found[name] for name in sorted(found, key=lambda n: order.index(n) if n in order else len(order))}


def lever_of(name: str, records: Records, chosen: list[str] | None) -> Lever:
    """The lever called `name`; those that join others are made from what has been measured, or of `chosen`."""
    if name in LEVERS:
        return LEVERS[name]
    # Of a lever that never reaches the mark no gain is known, and it is not a winner.
    known = {n: median_gain(gains(records, n, LEVERS[n])) or 0.0 for n in records if n in LEVERS}
    if name == TOGETHER:
        return combined(chosen or winners(known, network=False), "together, on the same network")
    if name == EVERYTHING:
        return combined(winners(known, network=True), "together, with the network free too")
    left = name.removeprefix(WITHOUT)
    parts = chosen or winners(known, network=False)
    if name.startswith(WITHOUT) and left in parts:
        return combined([part for part in parts if part != left], f"together without: {LEVERS[left].title}")
    raise SystemExit(f"there is no lever {name!r}; there are {', '.join([*LEVERS, TOGETHER, EVERYTHING])}, and "
                     f"{WITHOUT}X for each part X of {TOGETHER} (here {', '.join(parts) or 'none yet'})")  # fmt: skip


def run_lever(name: str, lever: Lever, settings: Mapping[str, Any], seed: int, path: Path) -> None:
    """Run one lever in a process of its own and keep its record."""
    environment = {k: v for k, v in os.environ.items() if k not in WAITING}
    environment |= {"OMP_NUM_THREADS": str(settings["threads"]), **lever.environment}
    job = json.dumps({"lever": lever.text(), "settings": dict(settings), "seed": seed})
    before = os.getloadavg()[0]
    done = subprocess.run(
        [sys.executable, __file__, "--worker", job], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        print(f"{name}: failed with status {done.returncode}; its error is above", flush=True)
        return
    record = {**json.loads(done.stdout.splitlines()[-1]), "load": [before, os.getloadavg()[0]]}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    print(
        f"{name}, seed {seed}: {record['steps']} steps, {record['images_per_second']:.1f} images/s, "
        f"held out {record['curve'][-1]['average']:.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("levers", nargs="*", metavar="lever", help="all of them when not given")
    parser.add_argument("--seconds", type=float, default=120.0, help="of training, for each run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--width", type=int, default=64, help="of the U-Net")
    parser.add_argument("--num", type=int, default=4096, help="flowers to train on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measurements", type=int, default=24, help="of the held-out loss in a run")
    parser.add_argument("--pairs", type=int, default=128, help="held-out pictures measured")
    parser.add_argument("--together", nargs="+", metavar="lever", help="what to join, in place of what gained")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "engine")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--write", action="store_true", help="write the page at the end")
    parser.add_argument("--write-only", action="store_true", help="write the page from what has run")
    parser.add_argument("--list", action="store_true", help="name the levers, and which cannot be measured here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        print(json.dumps(work(Lever.read(job["lever"]), job["settings"], job["seed"])))
        return
    names = ("seconds", "threads", "width", "num", "device", "measurements", "pairs")
    settings = {name: getattr(options, name) for name in names}
    refused = {name: why for name, lever in LEVERS.items() if (why := refusal(lever, settings)) is not None}
    if options.list:
        for name, lever in LEVERS.items():
            print(f"{name:18} {lever.title}" + (f"  [not here: {refused[name]}]" if name in refused else ""))
        return
    folder = options.out / "-".join(f"{name}={settings[name]:g}" if name != "device" else settings[name]
                                    for name in names).replace(":", "_")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    wanted = options.levers or [*LEVERS, TOGETHER, EVERYTHING]
    if PLAIN not in wanted:
        wanted = [PLAIN, *wanted]
    for name in [] if options.write_only else wanted:
        if name in refused:
            print(f"{name}: skipped, {refused[name]}", flush=True)
            continue
        for seed in options.seeds:
            path = record_path(folder, name, seed)
            records = read_records(folder)
            lever = lever_of(name, records, options.together)
            kept = records.get(name, {}).get(seed)
            if kept is not None and kept["lever"] == lever.text():
                continue
            run_lever(name, lever, settings, seed, path)
    if options.write or options.write_only:
        seeds = " ".join(map(str, options.seeds))
        command = (
            f"python benchmarks/engine.py --seconds {options.seconds:g} --threads {options.threads} --seeds {seeds} "
            f"--width {options.width} --num {options.num} --write"
        )
        write(options.page, read_records(folder), command=command, missing=refused)
        print(options.page)


if __name__ == "__main__":
    main()
