"""Loss on fixed (noise, t) pairs: a smooth curve, split by noise level and set beside each level's trivial floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kakusan.couplings import TrainingNoise
from kakusan.data.source import Pictures
from kakusan.model_folder import Model
from kakusan.noise import Draws, Stream
from kakusan.objectives import Objective, trivial_floor
from kakusan.train.partners import Partners
from kakusan.train.texts import Texts

LEVELS = 8
MEASURED_AT_ONCE = 64


@dataclass(frozen=True)
class LevelReport:
    """Mean loss, and for each of eight bands of noise (least noise first) the mean x0 error and its floor."""

    loss: float
    log_snr: tuple[float, ...]
    x0_error: tuple[float, ...]
    floor: tuple[float, ...]
    pictures: int

    def record(self) -> dict[str, Any]:
        """Plain values for `metrics.jsonl`."""
        return {
            "loss": self.loss,
            "log_snr": list(self.log_snr),
            "x0_error": list(self.x0_error),
            "floor": list(self.floor),
            "pictures": self.pictures,
        }


class FixedPairs:
    """Pictures with one fixed time and one fixed noise each."""

    def __init__(
        self,
        pictures: Pictures,
        objective: Objective,
        *,
        seed: int,
        count: int = 256,
        batch: int = MEASURED_AT_ONCE,
        device: torch.device | str = "cpu",
        partners: Partners | None = None,
        texts: Texts | None = None,
    ) -> None:
        if len(pictures) == 0:
            raise ValueError("there are no pictures to measure on")
        self.pictures, self.objective, self.seed = pictures, objective, seed
        self.batch, self.device, self.partners, self.texts = batch, torch.device(device), partners, texts
        self.count = max(LEVELS, count // LEVELS * LEVELS)
        self._stored: dict[int, Tensor] = {}

    def cut(self, batch: int, count: int | None = None) -> FixedPairs:
        """The same pairs computed `batch` at once; only `count` of them to see how long that takes."""
        count = self.count if count is None else count
        return FixedPairs(
            self.pictures,
            self.objective,
            seed=self.seed,
            count=count,
            batch=batch,
            device=self.device,
            partners=self.partners,
            texts=self.texts,
        )

    def measure_cut(self, model: Model, weights: Mapping[str, Tensor], batch: int) -> LevelReport:
        """As `measure`, `batch` at once."""
        return self.cut(batch).measure(model, weights)

    @torch.no_grad()
    def measure(self, model: Model, weights: Mapping[str, Tensor] | None = None) -> LevelReport:
        """Measure `model` as it is, or with other weights (an EMA profile) in their place."""
        schedule, spec = model.denoiser.trained_schedule, self.pictures.spec
        # Neighbouring times go to pictures far apart, so that a band of noise does not see one class only.
        numbers = torch.arange(self.count)
        u = (numbers.to(torch.float64) + 0.5) / self.count
        t = self.objective.time_sampler.quantile(schedule, u)
        chosen = (numbers * _stride(len(self.pictures))) % len(self.pictures)
        losses, errors = [], []
        training = model.training
        model.eval()
        for start in range(0, self.count, self.batch):
            rows = slice(start, start + self.batch)
            if start not in self._stored:
                # Read once: in streamed sets these pictures lie far apart, and every measurement would fetch them all.
                self._stored[start] = self.pictures.read(chosen[rows].numpy())
            x0 = spec.to_model(self._stored[start]).to(self.device)
            labels = self.pictures.labels
            raw = None if labels is None else labels[chosen[rows]].to(self.device)
            noise = TrainingNoise(self.seed, numbers[rows], Stream.HELD_OUT, chosen[rows], raw)
            eps = self.objective.coupling.eps(x0, noise)
            draws = Draws(noise.seeds(), numbers[rows], Stream.PAIR_HELD_OUT)
            partner = None if self.partners is None else self.partners.read(chosen[rows].numpy()).to(self.device)
            text = None if self.texts is None else self.texts.take(chosen[rows], draws).to(self.device)
            given = model.raw(x0, raw, draws, partner, text)
            terms = _terms(model, self.objective, x0, given, t[rows], eps, weights)
            losses.append(terms[0].cpu())
            errors.append(terms[1].cpu())
        model.train(training)
        variance = sum(value**2 for value in spec.std) / spec.channels
        bands = (schedule.log_snr(t), torch.cat(errors).double(), trivial_floor(schedule, t, variance))
        # Times rise with their number, so bands are runs; least noise first means lowest t first.
        means = [tuple(band.view(LEVELS, -1).mean(1).tolist()) for band in _rising(t, bands)]
        return LevelReport(float(torch.cat(losses).mean()), means[0], means[1], means[2], len(self.pictures))


def _rising(t: Tensor, values: tuple[Tensor, ...]) -> list[Tensor]:
    order = t.argsort(stable=True)
    return [value[order] for value in values]


def _stride(length: int) -> int:
    """A stride near the golden section that visits every picture."""
    stride = max(1, round(length * 0.6180339887))
    while torch.gcd(torch.tensor(stride), torch.tensor(length)) != 1:
        stride += 1
    return stride


def _terms(
    model: Model,
    objective: Objective,
    x0: Tensor,
    raw: Any,
    t: Tensor,
    eps: Tensor,
    weights: Mapping[str, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    if weights is None:
        terms = objective.terms(model.denoiser, x0, model.condition(raw), t, eps)
        return terms.loss, terms.x0_error
    with view(model, weights):
        terms = objective.terms(model.denoiser, x0, model.condition(raw), t, eps)
    return terms.loss, terms.x0_error


class view:
    """Context in which a module's parameters read from other tensors; the module's own are untouched memory.

    The parameters' storage is pointed elsewhere and back, so nothing is copied and nothing can be lost.
    """

    def __init__(self, module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
        self.module, self.weights = module, weights

    def __enter__(self) -> None:
        self.kept = {name: p.data for name, p in self.module.named_parameters()}
        for name, p in self.module.named_parameters():
            p.data = self.weights[name]

    def __exit__(self, *_: object) -> None:
        for name, p in self.module.named_parameters():
            p.data = self.kept[name]
