"""Making the pictures of a PNG again, from the record it carries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kakusan import runtime
from kakusan.model_folder import FACTS, model_hash
from kakusan.pipeline import load
from kakusan.request import SampleRequest
from kakusan.run_folder import RunFolder
from kakusan.tasks.picture_files import check_out, one_file, write


def again(png: Path, out: Path, *, run: Path | None = None, device: str = "auto") -> Iterator[str]:
    """Make the pictures of a PNG again from its record.

    Raises:
        ValueError: no record, or the model it names cannot be found.
    """
    from kakusan.report.png import read_pixels, read_record, save_png

    record = read_record(png)
    kind = record.get("kind")
    if kind == "preview":
        raise ValueError(f"{png} was drawn during training, by weights that were not kept; it cannot be drawn again")
    if kind not in ("single", "sheet"):
        raise ValueError(f"{png} was not drawn by kakusan sample; it cannot be drawn again")
    check_out(out)
    request = SampleRequest.from_record(record)
    try:
        threads, weights = int(record["threads"]), str(record["weights"])
        place = int(record["index"] if kind == "single" else record["columns"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the record in {png} is incomplete or damaged: {error!r}") from None
    if threads < 1 or place < (0 if kind == "single" else 1) or (kind == "single" and place >= len(request.seeds)):
        raise ValueError(f"the record in {png} is damaged: threads {threads}, place {place}")
    folder = _find(record, run)
    where = runtime.pick_device(device)
    # More threads than this machine has make the same sums, only slower; without bound they would make none.
    runtime.tune(device=where, threads=min(threads, 1024) if where.type == "cpu" else None)
    request = request.moved(_companions(record, folder))
    pipeline = load(folder, weights=weights, device=where)
    pipeline.with_precision("bf16" if record.get("dtype") == "bfloat16" else "fp32")
    before = read_pixels(png)
    yield f"from {folder}, weights {pipeline.weights!r}"
    pictures = pipeline.data.to_pil(pipeline.run(request))
    if kind == "single":
        picture: Image.Image | None = pictures[place]
        target = out / png.name if out.is_dir() or not one_file(out) else out
        save_png(pictures[place], target, pipeline.record(request, kind="single", index=place))
        yield f"wrote {target}"
    else:
        scale = record.get("scale")
        yield from write(pipeline, request, pictures, out, place, scale if isinstance(scale, int) else None)
        picture = read_pixels(out) if one_file(out) else None
    if picture is not None:
        yield _compared(before, picture, _differences(record, where.type))


def _companions(record: dict[str, Any], folder: Path) -> dict[str, str]:
    """Where the models that guided are now: where they were, or beside the model of the picture."""
    known = record.get("companions", {})
    found = {}
    for path, wanted in known.items() if isinstance(known, dict) else ():
        for candidate in (Path(path), folder.parent / Path(path).name):
            if (candidate / FACTS).is_file() and model_hash(candidate) == wanted:
                found[path] = str(candidate)
                break
        else:
            raise ValueError(
                f"this picture was guided by the model {path} (hash {str(wanted)[:12]}), which is not there or was "
                "changed; it cannot be drawn again without it"
            )
    return found


def _differences(record: dict[str, Any], device: str) -> str:
    now = (("torch", torch.__version__), ("threads", torch.get_num_threads()), ("device", device))
    return "; ".join(f"{name} was {record.get(name)}, is {value}" for name, value in now if record.get(name) != value)


def _compared(before: Image.Image, after: Image.Image, circumstances: str) -> str:
    """What became of the picture, from its pixels and not from a promise."""
    why = f" ({circumstances})" if circumstances else ""
    if before.size != after.size or before.mode != after.mode:
        return f"the sheet has another form than the first{why}"
    a, b = (np.asarray(image).astype(np.int64) for image in (before, after))
    most = int(np.abs(a - b).max())
    return f"every pixel is equal to the first{why}" if most == 0 else f"pixels differ by at most {most}{why}"


def _find(record: dict[str, Any], run: Path | None) -> Path:
    """The model folder with the recorded hash: in the run that was named, else where it was."""
    if run is not None and not run.exists():
        raise ValueError(f"there is no run or model at {run}")
    place = run if run is not None else Path(str(record.get("model_path")))
    candidates = [place]
    # A run, or a checkpoint among others of its run.
    for folder in (RunFolder(place), RunFolder(place.parent.parent)):
        candidates += [folder.checkpoint(step) for step in folder.steps()]
    for candidate in candidates:
        if (candidate / FACTS).is_file() and model_hash(candidate) == record.get("model"):
            return candidate
    raise ValueError(
        f"the model of this picture (hash {str(record.get('model'))[:12]}) is not "
        + (f"in {run}" if run is not None else f"at {record.get('model_path')}")
        + "; name the run that holds it: kakusan sample RUN --from-png FILE"
    )
