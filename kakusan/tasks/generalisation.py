"""Held-out minus training denoising error at each noise level, for a trained model."""

from __future__ import annotations

import torch
from torch import Tensor

from kakusan.data.source import Pictures
from kakusan.levels import Level
from kakusan.metrics.generalisation import GeneralisationReport
from kakusan.noise import Stream, normal
from kakusan.pipeline import Pipeline
from kakusan.train.reopen import reopen_parts

LEVELS = 6


def generalisation(
    pipeline: Pipeline, *, data: str | None = None, count: int = 96, seed: int = 0, batch: int = 64
) -> GeneralisationReport | None:
    """Denoise training and held-out pictures of a run at the same noise levels; None where nothing was held out.

    Args:
        pipeline: the model, with the weights it is loaded with.
        data: where its pictures are now, when they have moved.
        count: pictures of either kind, at most.
        seed: of which pictures and of the noise.
        batch: pictures at once.

    Raises:
        ValueError: the pictures are not there.
    """
    return gap_between(pipeline, *reopen_parts(pipeline, data), count=count, seed=seed, batch=batch)


@torch.no_grad()
def gap_between(
    pipeline: Pipeline, training: Pictures, held_out: Pictures, *, count: int = 96, seed: int = 0, batch: int = 64
) -> GeneralisationReport | None:
    """The same for pictures that are open; None for fewer than two held-out ones."""
    if min(len(training), len(held_out)) < 2:
        return None
    schedule = pipeline.denoiser.schedule
    u = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    times = pipeline.facts.objective.time_sampler.quantile(pipeline.model.denoiser.trained_schedule, u).sort().values
    errors = [_errors(pipeline, part, times, count, seed, batch) for part in (training, held_out)]
    return GeneralisationReport.of(schedule.log_snr(times).tolist(), *errors)


def _errors(pipeline: Pipeline, pictures: Pictures, times: Tensor, count: int, seed: int, batch: int) -> Tensor:
    """(levels, pictures) mean squared x0 error. Picture k has the same noise at every level and in either set."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(pictures), generator=generator)[:count].sort().values
    conditioner, labels = pipeline.model.conditioner, pictures.labels
    found = []
    for start in range(0, len(rows), batch):
        mine = rows[start : start + batch]
        x0 = pipeline.data.to_model(pictures.read(mine.numpy())).to(pipeline.device)
        numbers = torch.arange(start, start + len(mine))
        eps = normal(
            torch.full_like(numbers, seed),
            Stream.HELD_OUT,
            numbers,
            shape=x0.shape[1:],
            dtype=x0.dtype,
            device=x0.device,
        )
        cond = None
        if conditioner is not None:
            cond = conditioner.null(len(mine)) if labels is None else conditioner(labels[mine].to(pipeline.device))
        column = []
        for t in times:
            level = Level.of(pipeline.denoiser.schedule, t, x0)
            x_t = x0 * level.alpha + eps * level.sigma
            column.append((pipeline.denoiser(x_t, t, cond).x0 - x0).square().flatten(1).mean(1).double().cpu())
        found.append(torch.stack(column))
    return torch.cat(found, dim=1)
