"""Rebuilding weight averages after training, as a model folder of their own."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kakusan import model_folder
from kakusan.model_folder import Model, ModelFacts
from kakusan.run_folder import RunFolder, read_state
from kakusan.train.continuing import check_checkpoint, stored_config
from kakusan.train.ema import EmaProfile
from kakusan.train.posthoc import Rebuilt, Snapshots, rebuild

# Where the window itself is missed by more, the weights may be too far from those of a tracked average.
DOUBTFUL = 0.2


def rebuild_averages(
    run: Path, widths: Sequence[float], *, out: Path | None = None, names: Sequence[str] = ()
) -> Iterator[str]:
    """Write a model folder with averages of these widths at the newest checkpoint of a run; yields lines for people.

    The checkpoint itself is left as it is: its hash is written in every picture drawn from it, and a run goes on from
    exactly the profiles that it tracks. The folder holds the raw weights too, so it stands alone.

    Args:
        run: a run with snapshots.
        widths: of the averages, in (0, 0.28); the first is the one that is sampled when no other is asked for.
        out: the folder; one in the run's `ema/` when not given.
        names: of the profiles; `ema-WIDTH` when not given.

    Raises:
        ValueError: not a run, no snapshots, a width or name that cannot be, or a folder that is taken;
            `CorruptModel` for snapshots that are damaged or of another run.
    """
    if not widths:
        raise ValueError("name at least one width, as in: kakusan ema runs/mine --width 0.05")
    for width in widths:
        EmaProfile(width)
    profiles = tuple(names) if names else tuple(f"ema-{width:g}" for width in widths)
    if len(profiles) != len(widths) or len(set(profiles)) != len(widths):
        raise ValueError(f"every width needs one name of its own; got the widths {tuple(widths)}, the names {profiles}")
    wrong = [name for name in profiles if not name or "/" in name or name == model_folder.RAW]
    if wrong:
        raise ValueError(f"a profile cannot be called {wrong[0]!r}: names are not empty, not 'raw' and have no '/'")
    folder, config = RunFolder(run), stored_config(run)
    if config is None:
        raise ValueError(f"{run} is not a run of kakusan's (it has no config.toml); averages are rebuilt from a run")
    checkpoint = folder.latest()
    if checkpoint is None:
        raise ValueError(f"the run {run} has no checkpoint yet; start its training again to make one")
    if out is None:
        out = folder.path / "ema" / f"{checkpoint.name}-{'-'.join(profiles)}"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; nothing is overwritten, choose another --out")

    snapshots = Snapshots(folder.path)
    index = snapshots.read()
    check_checkpoint({"training": {"config": index.config}}, config, snapshots.index_file)
    _, _, averages, state = read_state(checkpoint)
    updates = int(state["trainer"]["ema_updates"])
    rebuilt = rebuild(snapshots, widths, updates=updates, averages=averages)
    model, facts, _ = model_folder.read(checkpoint, weights=model_folder.RAW)
    _write(out, checkpoint, model, facts, dict(zip(profiles, rebuilt, strict=True)), widths)
    for name, width, result in zip(profiles, widths, rebuilt, strict=True):
        missed = result.combination.residual
        yield (
            f"{name}: width {width:g} after {updates} updates, from averages stored at {result.places} times; "
            f"the window is met to {missed:.1%}"
        )
        if missed > DOUBTFUL:
            yield f"  that is coarse: train with more --snapshots, or choose a width nearer to {config.run.ema}"
    yield f"model   {out}\nnext    kakusan sample {out} --num 16"


def _write(
    out: Path, checkpoint: Path, model: Model, facts: ModelFacts, rebuilt: dict[str, Rebuilt], widths: Sequence[float]
) -> None:
    """The model folder, whole or not at all."""
    record = {
        "from": model_folder.model_hash(checkpoint),
        "widths": dict(zip(rebuilt, widths, strict=True)),
        "places": {name: result.places for name, result in rebuilt.items()},
        "window_error": {name: result.combination.residual for name, result in rebuilt.items()},
    }
    facts = replace(facts, training={**facts.training, "rebuilt": record}, profiles=tuple(rebuilt))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{secrets.token_hex(8)}.part")
    try:
        temporary.mkdir()
        model_folder.write(temporary, model, facts, {name: result.tensors for name, result in rebuilt.items()})
        if out.is_dir():
            out.rmdir()
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
