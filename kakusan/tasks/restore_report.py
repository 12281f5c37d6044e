"""What is said and written of restored pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kakusan.data.spec import DataSpec
from kakusan.levels import Level
from kakusan.metrics.fidelity import psnr, ssim
from kakusan.operators import Measurement
from kakusan.pipeline import Pipeline
from kakusan.posteriors import Posterior, Reverse
from kakusan.tasks.own_pictures import Cost
from kakusan.tasks.picture_files import one_file
from kakusan.tasks.restore_problems import Problem

if TYPE_CHECKING:
    from PIL.Image import Image

_SHARP = 0.02


def closing(
    pipeline: Pipeline,
    posterior: Posterior,
    measurement: Measurement,
    problem: Problem,
    x0: Tensor,
    cost: Cost,
    levels: Sequence[Level],
    *,
    noisy: bool,
    labelled: bool,
) -> Iterator[str]:
    """Cost, distance from the measurement, and what could not be done."""
    calls = posterior.network_calls(levels, measurement)
    each = "" if calls is None else f" ({calls} network calls a sample, backward passes counted)"
    yield cost.said(len(x0)) + each
    rms = measurement.residual(x0.to(measurement.y)).flatten(1).square().mean(1).sqrt()
    ratio = float(rms.mean()) / measurement.noise_std
    yield (
        f"|y - A x| is {float(rms.mean()) / 2.0:.4f} of the range, {ratio:.2f} times the noise of the measurement "
        f"({measurement.noise_std / 2.0:.4f}; about 1 is right, well above 1 does not fit)"
    )
    for remark in problem.remarks(noisy):
        yield f"note: {remark}"
    for remark in _cautions(posterior, x0, measurement):
        yield f"note: {remark}"
    if pipeline.classes and not labelled:
        yield f"note: no --label was given; naming one of the {len(pipeline.classes)} classes makes the model surer"
    if not pipeline.classes:
        yield "note: this model knows no classes, so none could be named"


def _cautions(posterior: Posterior, x0: Tensor, measurement: Measurement) -> Iterator[str]:
    if isinstance(posterior, Reverse):
        yield "the reverse process is exact: as far as the model and the noise are right, the spread is a probability"
        return
    if not posterior.groups:
        yield f"{type(posterior).__name__} is not exact: its spread is a hint at what is uncertain, not a probability"
        return
    yield (
        f"{len(x0)} particles: sequential Monte Carlo is exact only for very many; where samples look alike all come "
        "from one of them, and the spread is too small"
    )
    if measurement.noise_std < _SHARP:
        yield "so little noise leaves few particles alive; --noise 0.02 or more tells them apart less sharply"


def scores(x0: Tensor, mean: Tensor, truth: Tensor) -> dict[str, str]:
    """Lines on how near samples (B, C, *size) and their mean are to the true picture."""
    each, similar = psnr(x0, truth), ssim(x0, truth)
    lines = {"samples": f"samples: PSNR {float(each.mean()):.2f} dB, SSIM {float(similar.mean()):.3f}"}
    if len(x0) > 1:
        lines["mean"] = f"their mean: PSNR {float(psnr(mean, truth)):.2f} dB, SSIM {float(ssim(mean, truth)):.3f}"
    return lines


def write_restored(
    data: DataSpec,
    given: Image,
    x0: Tensor,
    truth: Tensor | None,
    out: Path,
    record: Mapping[str, Any],
    *,
    num: int,
) -> Iterator[str]:
    """A sheet, or a folder with the sheet and every picture by itself; `num` of the samples are shown."""
    from kakusan.report.png import save_png
    from kakusan.report.restoration import heat, restoration_sheet, round_top

    shown = x0[:: max(1, len(x0) // num)][:num]
    samples = data.to_pil(shown)
    named = [("given", given)]
    spread = None
    if len(x0) > 1:
        mean = x0.mean(0, keepdim=True)
        named.append((_titled("mean", mean, truth), data.to_pil(mean)[0]))
        # Over samples, root mean square over channels, in shares of the range.
        spread = (x0.var(0).mean(0).sqrt() / 2.0).numpy()
    else:
        named.append((_titled("restored", x0, truth), samples[0]))
    if truth is not None:
        named.insert(0, ("true", data.to_pil(truth)[0]))
    sheet = restoration_sheet(named, samples if len(x0) > 1 else [], spread=spread)
    if one_file(out):
        save_png(sheet, out, {**record, "part": "sheet"})
        yield f"wrote {out}"
        return
    parts = {name.split("\n")[0]: picture for name, picture in named}
    parts |= {f"sample-{k}": picture for k, picture in enumerate(samples)} if len(x0) > 1 else {}
    if spread is not None:
        parts["spread"] = heat(spread, round_top(float(spread.max())))
    for name, picture in {**parts, "sheet": sheet}.items():
        save_png(picture, out / f"{name}.png", {**record, "part": name})
    yield f"wrote {len(parts) + 1} files to {out}"


def _titled(name: str, x: Tensor, truth: Tensor | None) -> str:
    return name if truth is None else f"{name}\n{float(psnr(x, truth)):.1f} dB"
