"""Milliseconds and arithmetic of a training step and of a picture, of several models in turns."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping

import common
import torch
from latents_equal import Costs
from torch.utils.flop_counter import FlopCounterMode

from kakusan.nn.count import flops, parameters
from kakusan.pipeline import Pipeline, load
from kakusan.train.run import TrainingRun

TIMED = 16
"""Pictures that are drawn at once."""


def costs(runs: Mapping[str, TrainingRun], *, num_steps: int, sampler: str, rounds: int) -> dict[str, Costs]:
    """Steps and pictures of all models in turns, so that a slow moment of the machine slows all of a round.

    Args:
        runs: by name; their weights are what they were afterwards.
        num_steps: of the sampler.
        sampler: its name.
        rounds: after one that does not count.
    """
    models = {name: load(run.folder.path) for name, run in runs.items()}
    steps: dict[str, list[float]] = {name: [] for name in runs}
    images: dict[str, list[float]] = {name: [] for name in runs}
    decodes: dict[str, list[float]] = {name: [] for name in runs}
    with contextlib.ExitStack() as stack:
        for run in runs.values():
            stack.enter_context(run.trainer.undone())
        for turn in range(1 + rounds):
            for name, run in runs.items():
                taken = 1e3 * _seconds(lambda run=run: run.trainer.take(run.trainer.feed.batch(run.trainer.samples)))
                steps[name] += [taken] if turn else []
    for turn in range(1 + rounds):
        for name, model in models.items():
            images[name] += [_image(model, num_steps, sampler)] if turn else []
            z = torch.zeros(TIMED, *model.data.shape)
            if model.data.networks() and turn:
                decodes[name].append(1e3 * _seconds(lambda m=model, z=z: m.data.to_stored(z)) / TIMED)
    found = {}
    for name, model in models.items():
        backbone, shape = model.denoiser.backbone, model.data.shape
        once = num_steps * flops(backbone, shape) + _decoding(model)
        found[name] = Costs(
            parameters=parameters(backbone),
            step_gflop=flops(backbone, shape, backward=True) / 1e9,
            image_gflop=once / 1e9,
            step=steps[name],
            image=images[name],
            decode=decodes[name],
        )
    return found


def _image(model: Pipeline, num_steps: int, sampler: str) -> float:
    """Milliseconds of one picture of a batch, from noise to bytes."""
    labels = [i % len(model.classes) for i in range(TIMED)]

    def draw() -> None:
        model.data.to_stored(model.sample_tensor(labels=labels, num_steps=num_steps, sampler=sampler))

    return 1e3 * _seconds(draw) / TIMED


def _decoding(model: Pipeline) -> int:
    """Nominal operations of decoding one picture; 0 for pixels."""
    total = 0
    for network in model.data.networks().values():
        traced = copy.deepcopy(network).to("meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            traced.decode(torch.empty(1, *model.data.shape, device="meta"), size=model.data.pictured.size)
        total += int(counter.get_total_flops())
    return total


def _seconds(run: Callable[[], object]) -> float:
    return common.seconds(run, repeats=1, warm=0)[0]
