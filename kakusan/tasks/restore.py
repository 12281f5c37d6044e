"""Restoring a picture with a trained model: several samples of what it may have been, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from kakusan import runtime
from kakusan.grids import GRIDS
from kakusan.levels import tabulate
from kakusan.noise import Stream, normal
from kakusan.operators import Measurement, Operator
from kakusan.pipeline import load
from kakusan.specs import to_spec
from kakusan.tasks.own_pictures import counted, read_own
from kakusan.tasks.picture_files import ANIMATIONS, check_out
from kakusan.tasks.restore_latents import as_seen, in_pixels, noise_in, usual
from kakusan.tasks.restore_problems import Problem
from kakusan.tasks.restore_report import closing, scores, write_restored
from kakusan.tasks.restore_sampling import Way, affordable, chosen, posterior_samples

PARTICLES = 32
CALLS = 100


def restore(
    run: Path,
    image: Path,
    problem: Problem,
    out: Path,
    *,
    posterior: str | None = None,
    num: int = 4,
    noise: float | None = None,
    label: str | None = None,
    guidance_scale: float | None = None,
    num_steps: int | None = None,
    grid: str = "karras",
    degrade: bool = False,
    fit: str | None = None,
    seed: int = 0,
    batch: int = 32,
    weights: str | None = None,
    device: str = "auto",
    trajectory: Path | None = None,
) -> Iterator[str]:
    """Draw samples of what a measured picture may have been; yields lines for people.

    Args:
        run: a run, checkpoint or model folder.
        image: the measured picture, or with `degrade` a clean one.
        problem: what happened to it.
        out: a .png for one sheet, or a folder for single files.
        posterior: a name of `kakusan.posteriors.POSTERIORS`; the problem's own when None.
        num: samples.
        num_steps: of the sampler; as many as 100 network calls allow when None.
        noise: standard deviation of the measurement's noise, in shares of the range from black to white.
        degrade: apply the problem to the picture first, and measure how well it is undone.
    """
    check_out(out)
    if trajectory is not None and trajectory.suffix.lower() not in ANIMATIONS:
        raise ValueError(f"--trajectory ends in {', '.join(ANIMATIONS)}; got {trajectory}")
    if num < 1 or (noise is not None and not 0.0 <= noise < 10.0):
        raise ValueError(f"num is at least 1 and noise a share of the range, 0 or more; got {num} and {noise}")
    where = runtime.pick_device(device)
    runtime.tune(device=where)
    pipeline = load(run, weights=weights, device=where)
    data, (problem, name) = pipeline.data.pictured, usual(problem, pipeline.data)
    name = posterior or name
    method = chosen(name)
    operator = problem.operator(data, fit)
    drawn = max(num, PARTICLES) if method.groups else num
    request = pipeline.request(
        labels=None if label is None else [label] * drawn,
        num=drawn,
        seed=seed,
        guidance_scale=guidance_scale,
        num_steps=num_steps or 1,
        grid=grid,
        batch=drawn if method.groups else batch,
    )
    known = degrade or problem.always_degrades
    truth = read_own(image, data, fit=fit) if known else None
    y = problem.read(image, data, operator, fit) if truth is None else _measured(operator, truth, noise, seed)
    yield f"{type(problem).__name__.lower()} by {name}, weights {pipeline.weights!r} of {run}"
    guess = None
    if problem.guesses_noise and noise is None:
        guess = noise_in(y, pipeline, request)
        yield f"the noise found in the picture is {guess / 2.0:.4f} of the range"
    # A file rounds: below that no measurement is exact.
    rounding = 2.0 / (data.high - data.low) / math.sqrt(12.0)
    std = max(rounding, guess or 2.0 * (noise or 0.0))
    measurement = Measurement(operator, y, std)
    schedule = pipeline.denoiser.schedule
    seen, said = as_seen(pipeline.data, measurement, method)
    yield from said
    steps = affordable(method, seen, schedule, grid, CALLS) if num_steps is None else num_steps
    request = replace(request, num_steps=steps)
    levels = tabulate(schedule, GRIDS[grid](schedule, steps))
    way = Way() if trajectory is not None else None
    with counted(pipeline) as cost:
        z = posterior_samples(pipeline, method, seen, request, way)
    noisy = bool(noise)
    x0 = data.snap(problem.finished(in_pixels(pipeline.data, z, measurement), y, operator, noisy))
    yield from closing(
        pipeline, method, measurement, problem, x0, cost, levels, noisy=noisy, labelled=label is not None
    )
    marks = {} if truth is None else scores(x0[:: drawn // num][:num], x0.mean(0, keepdim=True), truth)
    yield from marks.values()
    record = pipeline.record(
        request,
        kind="restoration",
        problem={"type": type(problem).__name__, **problem.record()},
        posterior=to_spec(method),
        noise=std / 2.0,
        degraded=known,
        image=image.name,
    )
    given = problem.shown(y, data, operator)
    yield from write_restored(data, given, x0, truth, out, record, num=num)
    if way is not None and trajectory is not None:
        yield way.write(pipeline, trajectory, z)


def _measured(operator: Operator, truth: Tensor, noise: float | None, seed: int) -> Tensor:
    clean = operator(truth)
    return clean + 2.0 * (noise or 0.0) * normal([seed], Stream.MEASUREMENT, shape=clean.shape[1:])
