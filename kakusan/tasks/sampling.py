"""Drawing pictures to files, each with the record that makes it again, and making them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kakusan import runtime
from kakusan.model_folder import model_hash
from kakusan.pipeline import Pipeline, SampleRequest, load
from kakusan.run_folder import RunFolder, find_model
from kakusan.samplers import DDIM


def draw(
    run: Path,
    out: Path,
    *,
    labels: Sequence[str] = (),
    all_labels: bool = False,
    num: int | None = None,
    weights: str | None = None,
    device: str = "auto",
    trajectory: Path | None = None,
    eta: float | None = None,
    **options: Any,
) -> Iterator[str]:
    """Sample a run into a sheet or a folder; yields lines for people."""
    where = runtime.pick_device(device)
    runtime.tune(device=where)
    pipeline = load(run, weights=weights, device=where)
    if eta is not None:
        if options["sampler"] != "ddim":
            raise ValueError(f"eta belongs to the sampler ddim, not to {options['sampler']}")
        options["sampler"] = DDIM(eta=eta)
    wanted, columns = _wanted(pipeline, labels, all_labels, num)
    request = pipeline.request(labels=wanted, num=None if wanted else (num or 16), **options)
    count = len(request.seeds)
    yield f"{count} pictures with the weights {pipeline.weights!r} of {pipeline.path}"
    x0 = pipeline.run(request)
    pictures = pipeline.data.to_pil(x0)
    yield from _write(pipeline, request, pictures, out, columns)
    if trajectory is not None:
        yield _trajectory(pipeline, request, trajectory)


def _wanted(
    pipeline: Pipeline, labels: Sequence[str], all_labels: bool, num: int | None
) -> tuple[list[str | int] | None, int | None]:
    """(a label for each picture, pictures in a row of the sheet)."""
    if all_labels:
        if not pipeline.classes:
            raise ValueError("this model was trained without classes; leave --all-labels out")
        each = num or 8
        return [i for i in range(len(pipeline.classes)) for _ in range(each)], each
    if labels:
        count = max(num or 16, len(labels))
        return [labels[i * len(labels) // count] for i in range(count)], None
    return None, None


def _write(
    pipeline: Pipeline, request: SampleRequest, pictures: Sequence[Any], out: Path, columns: int | None
) -> Iterator[str]:
    from kakusan.report.grids import grid
    from kakusan.report.png import save_png

    if out.suffix.lower() == ".png":
        if len(pictures) == 1:
            save_png(pictures[0], out, pipeline.record(request, kind="single", index=0))
        else:
            rows = columns or max(1, round(len(pictures) ** 0.5))
            names = _row_names(pipeline, request, rows)
            sheet = grid(pictures, columns=rows, row_labels=names)
            save_png(sheet, out, pipeline.record(request, kind="sheet", columns=rows, rows=names))
        yield f"wrote {out}"
        return
    if out.suffix:
        raise ValueError(f"--out is a .png file or a folder, got {out}")
    place = 0
    for chunk in request.chunks():
        for index, seed in enumerate(chunk.seeds):
            label = "" if chunk.labels is None else f"-{_plain(pipeline.classes[chunk.labels[index]])}"
            record = pipeline.record(chunk, kind="single", index=index)
            save_png(pictures[place], out / f"{place:05d}{label}-seed{seed}.png", record)
            place += 1
    yield f"wrote {place} files to {out}"


def _plain(name: str) -> str:
    """A class name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:60]


def _row_names(pipeline: Pipeline, request: SampleRequest, columns: int) -> list[str] | None:
    """Names of the rows, when every row holds one class."""
    if request.labels is None or len(request.labels) % columns:
        return None
    rows = [set(request.labels[i : i + columns]) for i in range(0, len(request.labels), columns)]
    if any(len(row) > 1 for row in rows):
        return None
    return [pipeline.classes[row.pop()] for row in rows]


def _trajectory(pipeline: Pipeline, request: SampleRequest, path: Path) -> str:
    from kakusan.report.animation import save_animation
    from kakusan.report.reverse import trajectory_frames

    first = replace(request.chunks()[0], batch=min(request.batch, 16))
    first = first.chunks()[0]
    noisy, clean, times = [], [], []
    for step in pipeline.steps(first):
        noisy.append(shown(pipeline, step.x_t))
        predicted = step.prediction.x0 if step.prediction is not None else step.x_s
        clean.append(pipeline.data.to_pil(predicted.cpu()))
        times.append(float(step.level.t))
    noisy.append(pipeline.data.to_pil(step.x_s.cpu()))
    clean.append(noisy[-1])
    times.append(float(step.next_level.t))
    save_animation(trajectory_frames(noisy, clean, times), path, fps=8, hold=1.5)
    return f"wrote {path}"


def shown(pipeline: Pipeline, x_t: torch.Tensor) -> list[Any]:
    """x_t as pictures, scaled to the range of the picture: noise has no natural one."""
    scale = x_t.flatten(1).std(1).clamp_min(0.5).view(-1, *[1] * (x_t.dim() - 1)) * 2.0
    return pipeline.data.to_pil((x_t / scale).cpu())


def again(png: Path, out: Path, *, run: Path | None = None, device: str = "auto") -> Iterator[str]:
    """Make the pictures of a PNG again from its record.

    Raises:
        ValueError: no record, or the model it names cannot be found.
    """
    from kakusan.report.png import read_record

    record = read_record(png)
    request = SampleRequest.from_record(record)
    kind = record.get("kind")
    if kind not in ("single", "sheet"):
        raise ValueError(f"{png} holds a {kind} of a training run, which is not drawn again; it was made during training")
    folder = _find(record, run)
    where = runtime.pick_device(device)
    runtime.tune(device=where, threads=int(record["threads"]) if where.type == "cpu" else None)
    pipeline = load(folder, weights=str(record["weights"]), device=where)
    differs = [
        f"{name} was {record.get(name)}, is {value}"
        for name, value in (
            ("torch", torch.__version__),
            ("threads", torch.get_num_threads()),
            ("device", where.type),
        )
        if record.get(name) != value
    ]
    yield f"from {folder}, weights {pipeline.weights!r}"
    pictures = pipeline.data.to_pil(pipeline.run(request))
    if kind == "single":
        from kakusan.report.png import save_png

        index = int(record["index"])
        save_png(pictures[index], out, pipeline.record(request, kind="single", index=index))
        yield f"wrote {out}"
    else:
        yield from _write(pipeline, request, pictures, out, int(record["columns"]))
    yield "bit-equal to the first" if not differs else f"equal up to rounding ({'; '.join(differs)})"


def _find(record: dict[str, Any], run: Path | None) -> Path:
    """The model folder with the recorded hash: in the run that was named, or where it was."""
    candidates: list[Path] = []
    for place in (run, record.get("model_path")):
        if place is None:
            continue
        place = Path(place)
        if (place / "checkpoints").is_dir():
            folder = RunFolder(place)
            candidates += [folder.checkpoint(step) for step in folder.steps()]
        elif place.exists():
            candidates.append(find_model(place))
    for candidate in candidates:
        if model_hash(candidate) == record.get("model"):
            return candidate
    raise ValueError(
        f"the model of this picture (hash {str(record.get('model'))[:12]}) is not "
        + (f"in {run}" if run is not None else f"at {record.get('model_path')}")
        + "; name the run that holds it: kakusan sample RUN --from-png FILE"
    )
