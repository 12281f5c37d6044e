"""Bits per dimension of the same held-out pictures by any model that states them."""

from __future__ import annotations

import math

import numpy as np
import torch

from kakusan.data.source import Pictures
from kakusan.likelihood import Bound, Categorical
from kakusan.metrics.record import MetricRecord, Provenance
from kakusan.pipeline import Pipeline
from kakusan.rivals.pipeline import RivalPipeline
from kakusan.train.reopen import conditioning

PICTURES = 128
DRAWS = 4
AT_ONCE = 32


@torch.no_grad()
def stated_bits(
    model: Pipeline | RivalPipeline, held_out: Pictures, *, num: int = PICTURES
) -> tuple[MetricRecord, str] | None:
    """(bits per dimension, "exact" or "bound") of held-out pictures given their labels; None where a model has none.

    Args:
        num: pictures, spread over the set, the same for every model.

    Raises:
        ValueError: a likelihood that is not finite.
    """
    count = min(num, len(held_out))
    # Bits of latents are not those of pictures.
    if count < 2 or model.data.networks():
        return None
    rows = np.linspace(0, len(held_out) - 1, count).round().astype(np.int64)
    if isinstance(model, Pipeline):
        bits, kind, told = _bound(model, held_out, rows)
    else:
        labels = held_out.labels if model.classes and model.classes == held_out.spec.classes else None
        told = "none" if labels is None else "labels"
        some = None if labels is None else labels[torch.from_numpy(rows)]
        found = model.log_likelihood(held_out.read(rows), some, seeds=rows.tolist(), batch=AT_ONCE)
        if found is None:
            return None
        bits, kind = found, model.likelihood_kind
    if not bool(bits.isfinite().all()):
        raise ValueError("the likelihood of a held-out picture is not finite; this model has diverged")
    of = Provenance(
        model=model.model_hash,
        weights=model.weights,
        seeds=f"{rows[0]} to {rows[-1]}",
        conditions=told,
        reference=held_out.fingerprint,
        settings={"levels": int(held_out.spec.high - held_out.spec.low) + 1},
    )
    error = float(bits.std()) / math.sqrt(count)
    return MetricRecord("bits per dimension", float(bits.mean()), error, count, of), kind


def _bound(model: Pipeline, held_out: Pictures, rows: np.ndarray) -> tuple[torch.Tensor, str, str]:
    method, parts = Bound(Categorical.for_data(model.data), DRAWS), []
    condition, told = conditioning(model, held_out)
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE].tolist()
        x0 = model.data.to_model(held_out.read(some)).to(model.device)
        terms = method.terms(model.denoiser, x0, condition(some), torch.tensor(some))
        parts.append(torch.stack([term.double().cpu() for term in terms.values()]).sum(0))
    return torch.cat(parts) / (math.prod(model.data.shape) * math.log(2.0)), "bound", told
