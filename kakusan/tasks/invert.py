"""A given picture as noise: the code, the way back, and how far from the picture it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kakusan.inversion import INVERSIONS, RoundTrip, Side, write_code
from kakusan.samplers import DDIM
from kakusan.specs import to_spec
from kakusan.tasks.editing import Bench, doubts, method_of
from kakusan.tasks.own_pictures import counted
from kakusan.tasks.picture_files import shown


def invert(
    run: Path,
    image: Path,
    out: Path,
    *,
    label: str | None = None,
    method: str = "fixed-point",
    seed: int = 0,
    fit: str | None = None,
    **options: Any,
) -> Iterator[str]:
    """Write the noise of a picture, its reconstruction and a sheet into the folder `out`; yields lines for people.

    Args:
        label: what the picture shows; None for "no condition".
        method: a name of `kakusan.inversion.INVERSIONS`.
        seed: of methods that draw noise.
        options: of `Bench`; guidance acts on both ways.
    """
    from kakusan.report.editing import difference
    from kakusan.report.grids import grid
    from kakusan.report.png import save_png

    if out.suffix or (out.exists() and not out.is_dir()):
        raise ValueError(f"--out is a folder, for the noise and the pictures; got {out}")
    way = method_of(method, INVERSIONS)
    bench = Bench(run, sampler=DDIM(), **options)
    x0 = bench.picture(image, fit)
    request = bench.request(label, [seed], guided=True)
    side = Side(*bench.pipeline.guided(request))
    with counted(bench.pipeline) as cost:
        codes = way.codes(side, x0, bench.levels, seeds=[seed])
        there = cost.passes
        back = way.replay(side, codes[0], bench.levels)
    trip = RoundTrip.between(x0, back)
    noise = float(codes[0].x.std()) / float(bench.levels[0].sigma)
    yield f"{image} by {method} in {bench.steps} steps with the weights {bench.pipeline.weights!r}"
    yield trip.said()
    yield f"the code has a standard deviation of {noise:.3f}, noise has 1"
    yield from doubts(way, request.guidance_scale, max(code.residual for code in codes))
    yield f"{cost.said(1)}, {there} of the passes on the way to noise"
    record = bench.pipeline.record(
        request,
        kind="inversion",
        method=to_spec(way),
        label=label,
        times=[float(level.t) for level in bench.levels],
        worst=trip.worst,
        psnr=min(trip.psnr, 999.0),
    )
    write_code(codes[0], out / "noise.safetensors", record)
    picture, again = bench.pictures(x0)[0], bench.pictures(back)[0]
    save_png(again, out / "reconstruction.png", record)
    off, white = difference(back[0], x0[0].to(back))
    sheet = [picture, *shown(bench.pipeline, codes[0].x), again, off]
    labels = ["picture", "noise", f"back\n{trip.psnr:.1f} dB", f"difference\nwhite = {white:.1g}"]
    save_png(grid(sheet, columns=4, column_labels=labels), out / "sheet.png", record)
    yield f"wrote {out}: noise.safetensors, reconstruction.png, sheet.png"
