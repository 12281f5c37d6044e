"""The reverse process in pictures: x_t and the predicted x0, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from kakusan.report import style
from kakusan.report.grids import grid, tile
from kakusan.report.pictures import Picture, as_images, auto_scale, largest

_ROWS = ("xₜ", "predicted x₀")
_LABEL = 14
_FOOT = 46


def reverse_strip(
    x_t: Sequence[Picture],
    x0: Sequence[Picture],
    times: Sequence[float],
    *,
    sigmas: Sequence[float] | None = None,
    title: str | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Two rows over the steps of one sample: x_t, and the x0 predicted from it. Returns RGB.

    All sequences have one entry for each step shown, in the order of sampling. `times`: t of each step; `sigmas`: its
    noise level, shown beside t where given.
    """
    count = len(times)
    _same_length(count, x_t=x_t, x0=x0, sigmas=sigmas)
    labels = [_level(t, sigmas[i] if sigmas is not None else None, "\n") for i, t in enumerate(times)]
    return grid(
        [*x_t, *x0], columns=count, row_labels=_ROWS, column_labels=labels, title=title, scale=scale
    )  # fmt: skip


def trajectory_frames(
    x_t: Sequence[Sequence[Picture]],
    x0: Sequence[Sequence[Picture]] | None,
    times: Sequence[float],
    *,
    sigmas: Sequence[float] | None = None,
    columns: int | None = None,
    scale: int | None = None,
) -> list[Image.Image]:
    """One sheet for each step: the whole batch x_t, beside it the predicted x0, and how far sampling has come.

    `x_t[k]` and `x0[k]`: the pictures of the batch at step k, the same number at every step. `columns`: pictures in a
    row, near-square by default. All sheets are of one size.
    """
    count = len(times)
    _same_length(count, x_t=x_t, x0=x0, sigmas=sigmas)
    panels = [(name, batches) for name, batches in zip(_ROWS, (x_t, x0), strict=True) if batches is not None]
    every = as_images((p for _, batches in panels for batch in batches for p in batch), what="frames")
    batch = len(x_t[0])
    if any(len(pictures) != batch for _, batches in panels for pictures in batches):
        raise ValueError(f"every step must show the same number of pictures, {batch} as the first does")
    if any(image.size != largest(every) for image in every):
        raise ValueError("the pictures of a trajectory must all be of one size")
    columns = min(batch, columns if columns is not None else _near_square(batch))
    scale = auto_scale(*largest(every), target=224 if batch == 1 else 96) if scale is None else scale
    return [
        _sheet([(n, tile(b[k], columns=columns, gap=style.GAP, scale=scale)) for n, b in panels], k, times, sigmas)
        for k in range(count)
    ]


def _sheet(
    panels: Sequence[tuple[str, Image.Image]], step: int, times: Sequence[float], sigmas: Sequence[float] | None
) -> Image.Image:
    between = style.MARGIN
    head = style.MARGIN + round(_LABEL * 1.7)
    inner = sum(image.width for _, image in panels) + between * (len(panels) - 1)
    width = max(inner, 200) + 2 * style.MARGIN
    sheet = style.canvas(width, head + panels[0][1].height + _FOOT + style.MARGIN)
    draw = ImageDraw.Draw(sheet)
    left = (width - inner) // 2
    for name, image in panels:
        style.draw_text(draw, (left, head - _LABEL * 0.6), name, _LABEL, colour=style.MUTED, anchor="ls")
        sheet.paste(image, (left, head))
        left += image.width + between
    start, stop = (width - inner) // 2, (width + inner) // 2
    if inner < 200:
        start, stop = style.MARGIN, width - style.MARGIN
    y = head + panels[0][1].height + 14
    share = 1.0 if len(times) == 1 else step / (len(times) - 1)
    draw.rectangle((start, y, stop - 1, y + 3), fill=style.rgb(style.RULE))
    done = round(share * (stop - start))
    if done:
        draw.rectangle((start, y, start + done - 1, y + 3), fill=style.rgb(style.INDIGO))
    text = _level(times[step], None if sigmas is None else sigmas[step], "     ")
    style.draw_text(draw, (start, y + 28), text, _LABEL, anchor="ls")
    style.draw_text(draw, (stop, y + 28), f"{step + 1} / {len(times)}", _LABEL, colour=style.MUTED, anchor="rs")
    return sheet


def _level(t: float, sigma: float | None, between: str) -> str:
    return f"t = {t:.2f}" + ("" if sigma is None else f"{between}σ = {sigma:.3g}")


def _near_square(count: int) -> int:
    columns = 1
    while columns * columns < count:
        columns += 1
    return columns


def _same_length(count: int, **named: Sequence[object] | None) -> None:
    if count == 0:
        raise ValueError("no steps were given; at least one is needed")
    for name, values in named.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for {count} times; give one for each step")
