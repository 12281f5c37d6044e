"""Drawing pictures to files, each with the record that makes it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kakusan import runtime
from kakusan.pipeline import load
from kakusan.samplers import DDIM
from kakusan.tasks.own_pictures import counted
from kakusan.tasks.picture_files import ANIMATIONS, check_out, write, write_trajectory


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
    cuda_graphs: bool = False,
    precision: str = "fp32",
    **options: Any,
) -> Iterator[str]:
    """Sample a run into a sheet or a folder; yields lines for people."""
    check_out(out)
    if trajectory is not None and trajectory.suffix.lower() not in ANIMATIONS:
        raise ValueError(f"--trajectory ends in {', '.join(ANIMATIONS)}; got {trajectory}")
    where = runtime.pick_device(device)
    runtime.tune(device=where)
    pipeline = load(run, weights=weights, device=where).with_precision(precision)
    if cuda_graphs:
        pipeline.with_graphs()
    options = with_eta(options, eta)
    names, columns = wanted(pipeline.classes_under(options.get("guides", ())), labels, all_labels, num)
    request = pipeline.request(labels=names, num=None if names else (16 if num is None else num), **options)
    count = len(request.seeds)
    yield f"{count} pictures with the weights {pipeline.weights!r} of {pipeline.path}"
    with counted(pipeline) as cost:
        x0 = pipeline.run(request)
    # A recorded graph passes the network by, so nothing was counted.
    if not cuda_graphs:
        yield cost.said(count)
    pictures = pipeline.data.to_pil(x0)
    yield from write(pipeline, request, pictures, out, columns)
    if trajectory is not None:
        yield write_trajectory(pipeline, request, trajectory)


def with_eta(options: dict[str, Any], eta: float | None) -> dict[str, Any]:
    """The options of a request with the eta of ddim, where one is given."""
    if eta is None:
        return options
    if options["sampler"] != "ddim":
        raise ValueError(f"eta belongs to the sampler ddim, not to {options['sampler']}")
    return {**options, "sampler": DDIM(eta=eta)}


def wanted(
    classes: Sequence[str], labels: Sequence[str], all_labels: bool, num: int | None
) -> tuple[list[str | int] | None, int | None]:
    """(a label for each picture, pictures in a row of the sheet)."""
    if all_labels:
        if not classes:
            raise ValueError("this model was trained without classes; leave --all-labels out")
        if labels:
            raise ValueError("--label and --all-labels exclude each other")
        each = 8 if num is None else num
        return [i for i in range(len(classes)) for _ in range(each)], each
    if labels:
        count = max(1, round(16 / len(labels))) * len(labels) if num is None else max(num, len(labels))
        columns = count // len(labels) if len(labels) > 1 and count % len(labels) == 0 else None
        return [labels[i * len(labels) // count] for i in range(count)], columns
    return None, None
