"""One evaluation for equal inputs.

The pictures of a sweep start from the same noise, so in the first step the network sees the same x_t under every
guidance scale, and two settings of an interval or of a switch go one way until they part. A network wrapped here looks
for rows of a batch that are equal in everything, evaluates each of them once, and hands the result to all.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.model_folder import Model
from kakusan.pipeline import Pipeline

_LOOKED_AT = 8
"""Values of a row that are compared first: rows that differ nearly always differ there."""
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Shared(nn.Module):
    """A backbone that evaluates equal rows once.

    Args:
        network: `(x, c_noise, cond) -> tensor`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None) -> Tensor:
        """x (B, C, *spatial), c_noise (B,) or (1,) -> as the network's own."""
        parts = [x, *([] if cond is None else cond.tensors())]
        if c_noise.numel() > 1:
            parts.append(c_noise)
        first = equal_rows([part.detach().reshape(len(x), -1) for part in parts])
        kept = first.unique()
        if len(kept) == len(x):
            out: Tensor = self.network(x, c_noise, cond)
            return out
        few = self.network(
            x[kept],
            c_noise if c_noise.numel() == 1 else c_noise[kept],
            None if cond is None else cond.map(lambda value: value[kept]),
        )
        few_out: Tensor = few[torch.searchsorted(kept, first)]
        return few_out


def equal_rows(parts: list[Tensor]) -> Tensor:
    """(B,) the first row that is bit-equal to each row in all of `parts`, each (B, D)."""
    marks = torch.cat([_words(part[:, :_LOOKED_AT]) for part in parts], 1).tolist()
    seen: dict[tuple[int, ...], int] = {}
    first = torch.tensor([seen.setdefault(tuple(mark), row) for row, mark in enumerate(marks)], device=parts[0].device)
    own = torch.arange(len(first), device=first.device)
    if len(seen) == len(first):
        return own
    # The rest of the row may differ.
    same = torch.ones_like(first, dtype=torch.bool)
    for part in parts:
        same &= (_words(part) == _words(part[first])).all(1)
    return torch.where(same, first, own)


def _words(part: Tensor) -> Tensor:
    return part.contiguous().view(_WORDS[part.element_size()]).to(torch.int64)


def sharing(pipeline: Pipeline) -> Pipeline:
    """The same model, which evaluates equal rows of a batch once; `pipeline` itself stays as it is."""
    denoiser = copy.copy(pipeline.model.denoiser)
    denoiser._modules = {**denoiser._modules, "backbone": Shared(denoiser.backbone)}
    return Pipeline(
        Model(denoiser, pipeline.model.conditioner),
        pipeline.facts,
        weights=pipeline.weights,
        path=pipeline.path,
        model_hash=pipeline.model_hash,
    )
