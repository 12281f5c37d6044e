"""What runs there are, and what one holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kakusan.model_folder import CorruptModel, model_hash, read_facts, verified
from kakusan.run_folder import RunFolder, find_model
from kakusan.tasks import other_models
from kakusan.train.metrics_log import read_records


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """One row for each run under `folder` (or for `folder` itself), and for each other network, the newest first."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; runs are made by kakusan train and kakusan demo")
    alone = RunFolder(folder).exists() or other_models.row(folder) is not None
    found = [folder] if alone else sorted(p for p in folder.iterdir() if p.is_dir())
    others = [other_models.row(path) for path in found]
    runs = [
        _row(RunFolder(path)) for path, row in zip(found, others, strict=True) if not row and RunFolder(path).exists()
    ]
    return sorted([*filter(None, others), *runs], key=lambda row: row["changed"], reverse=True)


def _row(run: RunFolder) -> dict[str, Any]:
    changed = max(p.stat().st_mtime for p in (run.path / "config.toml", run.metrics) if p.exists())
    row: dict[str, Any] = {"run": str(run.path), "changed": changed, "state": "no checkpoint yet"}
    try:
        latest = run.latest()
        if latest is not None:
            facts = read_facts(latest)
            training = facts["training"]
            data = facts["data"]
            row |= {
                "state": "ok",
                "steps": training["steps"],
                "data": training["source"],
                "size": [data["channels"], *data["size"]],
                "time": training["figures"]["time"],
                "parameters": training["figures"]["parameters"],
            }
    except (CorruptModel, KeyError, TypeError) as error:
        row["state"] = f"damaged: {error}"
    records = read_records(run.metrics)
    for kind in ("training", "held-out"):
        values = [record["loss"] for record in records if record["kind"] == kind]
        if values:
            row[f"{kind} loss"] = values[-1]
    pictures = sorted(run.samples.glob("*.png"), key=lambda p: p.stat().st_mtime)
    row["picture"] = str(pictures[-1]) if pictures else None
    return row


def table(rows: list[dict[str, Any]], folder: Path) -> str:
    """The rows for people."""
    if not rows:
        return f"no runs in {folder}; make one with: kakusan train --data FOLDER --out {folder}/mine"
    lines = []
    for row in rows:
        lines.append(row["run"])
        if "kind" in row:
            size = " x ".join(map(str, row["size"]))
            steps = "" if row["steps"] is None else f", {row['steps']} steps"
            lines.append(f"  {row['kind']} for {size}{steps}" + ("" if row["state"] == "ok" else f"; {row['state']}"))
        elif row["state"] != "ok":
            lines.append(f"  {row['state']}")
        else:
            size = " x ".join(map(str, row["size"]))
            lines.append(
                f"  {row['steps']} steps in {row['time']}, {row['parameters'] / 1e6:.2f} M parameters, "
                f"{row['data']} at {size}"
            )
        losses = [f"{k} {row[k]:.4f}" for k in ("training loss", "held-out loss") if k in row]
        if losses:
            lines.append("  " + ", ".join(losses))
        if row["picture"]:
            lines.append(f"  last picture {row['picture']}")
    return "\n".join(lines)


def inspect(path: Path) -> dict[str, Any]:
    """Every fact a checkpoint or the folder of another network holds, with its hash and the tensors of each file."""
    from safetensors import safe_open

    other = other_models.folder_of(path) if path.is_dir() else None
    folder = find_model(path) if other is None else other
    facts = other_models.described(folder)[1]
    tensors = {}
    for name in (n for n in facts.get("files", {}) if n.endswith(".safetensors")):
        verified(folder, name, facts)
        with safe_open(str(folder / name), framework="numpy") as file:
            keys = list(file.keys())
            tensors[name] = {"tensors": len(keys), "elements": sum(_count(file.get_slice(k).get_shape()) for k in keys)}
    return {"folder": str(folder), "hash": model_hash(folder), **facts, "tensors": tensors}


def _count(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def text(facts: Mapping[str, Any], indent: int = 0) -> str:
    """Nested facts as indented lines; long lists are cut."""
    lines = []
    pad = "  " * indent
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{pad}{key}", text(value, indent + 1)]
        else:
            shown = json.dumps(value, ensure_ascii=False)
            lines.append(f"{pad}{key:<22} {shown if len(shown) <= 400 else shown[:380] + ' ... (--json shows all)'}")
    return "\n".join(lines)
