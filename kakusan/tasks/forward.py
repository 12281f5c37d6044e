"""The forward process on one's own picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL.Image import Image
from torch import Tensor

from kakusan.choices import build_schedule
from kakusan.config import ModelSettings
from kakusan.data.spec import DataSpec
from kakusan.levels import Level
from kakusan.noise import Stream, normal
from kakusan.schedules import NoiseSchedule

if TYPE_CHECKING:
    from kakusan.report.forward import ProcessCurves


def noised(x0: Tensor, schedule: NoiseSchedule, times: Sequence[float], *, seed: int) -> Tensor:
    """x_t of one x0 (C, *size) at every time, (T, C, *size), with the same noise throughout."""
    eps = normal([seed], Stream.START, shape=x0.shape)[0]
    levels = [Level.of(schedule, t) for t in times]
    return torch.stack([x0 * float(level.alpha) + eps * float(level.sigma) for level in levels])


def visible(x_t: Tensor, schedule: NoiseSchedule, times: Sequence[float]) -> Tensor:
    """x_t brought to the range of a picture where a schedule's total variance grows (VE, EDM)."""
    levels = [Level.of(schedule, t) for t in times]
    scale = torch.tensor([max(1.0, (float(v.alpha) ** 2 + float(v.sigma) ** 2) ** 0.5) for v in levels])
    return x_t / scale.view(-1, *[1] * (x_t.dim() - 1))


def strip(x0: Tensor, spec: DataSpec, schedule: NoiseSchedule, times: Sequence[float], *, seed: int) -> Image:
    """The strip with the curves under it."""
    from kakusan.report.forward import forward_strip

    x_t = visible(noised(x0, schedule, times, seed=seed), schedule, times)
    return forward_strip(spec.to_pil(x_t), list(times), curves(schedule))


def curves(schedule: NoiseSchedule) -> ProcessCurves:
    """log-SNR, alpha and sigma over the whole time."""
    from kakusan.report.forward import ProcessCurves

    t = torch.linspace(0.0, 1.0, 401, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    # Coefficients of exploding schedules have no common axis with alpha.
    shown = {"alpha": alpha.tolist(), "sigma": sigma.tolist()} if float(sigma.max()) <= 1.5 else {}
    inside = (t >= schedule.t_min) & (t <= schedule.t_max)
    log_snr = torch.where(inside, log_snr, torch.nan)
    return ProcessCurves(t.tolist(), log_snr.tolist(), **shown)


def draw_file(
    image: Path,
    out: Path,
    *,
    schedule: str = "cosine",
    shift: float = 1.0,
    times: Sequence[float] = (),
    size: int = 128,
    seed: int = 0,
    frames: int = 60,
) -> str:
    """Read a picture, draw its forward process, write it; returns a line for people."""
    from kakusan.data.fit import Stretch
    from kakusan.data.reading import read_picture
    from kakusan.report.animation import save_animation
    from kakusan.report.forward import forward_frames
    from kakusan.report.png import save_png

    if size < 1 or frames < 2:
        raise ValueError(f"size must be at least 1 and frames at least 2, got {size} and {frames}")
    process = build_schedule(ModelSettings(schedule=schedule, shift=shift))
    for t in times:
        if not 0.0 <= t <= 1.0:
            raise ValueError(f"times lie in [0, 1], where 0 is the picture and 1 is noise; got {t}")
    array = read_picture(image.read_bytes(), str(image)).values
    scale = size / max(array.shape[:2])
    if scale < 1.0:
        height, width = (max(1, round(side * scale)) for side in array.shape[:2])
        array = Stretch().apply(array, (height, width))
    stored = torch.from_numpy(array.transpose(2, 0, 1).copy()).unsqueeze(0)
    spec = DataSpec.measure(stored)
    x0 = spec.to_model(stored)[0]
    if out.suffix.lower() == ".png":
        chosen = sorted(times) or [i / 9 for i in range(10)]
        save_png(strip(x0, spec, process, chosen, seed=seed), out)
    else:
        chosen = sorted(times) or [i / (frames - 1) for i in range(frames)]
        pictures = spec.to_pil(visible(noised(x0, process, chosen, seed=seed), process, chosen))
        save_animation(forward_frames(pictures, chosen, curves(process)), out, fps=12, hold=1.0)
    return f"wrote {out}: {len(chosen)} times of {type(process).__name__}"
