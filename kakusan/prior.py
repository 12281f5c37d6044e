"""The prior of DALL-E 2: a text -> the CLIP vector that a picture of it may have (Ramesh et al. 2022, arXiv
2204.06125, section 2.2). A decoder then draws that picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan.encoders.vector_data import VectorSpec
from kakusan.encoders.vectors import GivenVectors, ImageVectors, direction
from kakusan.pipeline import Pipeline, load

# Seeds of a prior lie far from those of pictures: equal ones would give both the same noise.
_APART = 1 << 48


@dataclass(frozen=True)
class PriorSampling:
    """How vectors are drawn.

    Args:
        guidance_scale: 1 follows the text as trained, above 1 more.
        num_steps: of the sampler.
        candidates: vectors drawn for each, of which the one nearest to the text is taken; the paper draws two.

    Raises:
        ValueError: no step or no candidate.
    """

    guidance_scale: float = 1.0
    num_steps: int = 20
    candidates: int = 2

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.candidates < 1:
            raise ValueError(
                f"a prior takes at least one step and one candidate, got {self.num_steps} and {self.candidates}"
            )


class Prior:
    """A trained prior, ready to draw.

    Args:
        pipeline: of its model.

    Raises:
        ValueError: a model of another kind.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        if not isinstance(pipeline.data, VectorSpec):
            raise ValueError(
                f"{pipeline.path or 'this model'} is no prior, because it draws no CLIP vectors; train one with "
                "kakusan train-prior"
            )
        self.pipeline, self.data = pipeline, pipeline.data

    @classmethod
    def open(cls, path: str | Path, *, weights: str | None = None, device: torch.device | str = "cpu") -> Prior:
        """The prior in a run, checkpoint or model folder."""
        return cls(load(path, weights=weights, device=device))

    def check_fits(self, decoder: Pipeline) -> None:
        """Refuse a decoder of another CLIP, in whose space these vectors mean nothing.

        Raises:
            ValueError: that, or a model that is no decoder of CLIP vectors.
        """
        conditioner = decoder.model.conditioner
        if not isinstance(conditioner, ImageVectors):
            raise ValueError(
                "this model does not draw pictures of CLIP vectors, so a prior is of no use to it; train a decoder "
                "with kakusan train --clip-vectors FOLDER, or leave --prior out"
            )
        if conditioner.identity != self.data.identity:
            raise ValueError(
                f"the prior {self.pipeline.path} and the decoder {decoder.path} were trained with two different CLIPs; "
                "train both with the same"
            )

    def draw(self, texts: Sequence[str], seeds: Sequence[int], how: PriorSampling = PriorSampling()) -> Tensor:
        """All candidates (candidates, n, D) of n texts, of length 1, on the CPU."""
        found = []
        for number in range(how.candidates):
            request = self.pipeline.request(
                prompts=list(texts),
                seeds=[_apart(seed, number) for seed in seeds],
                guidance_scale=how.guidance_scale,
                num_steps=how.num_steps,
                batch=256,
            )
            x = self.pipeline.run(request)
            found.append(self.data.directions(x.to(self.pipeline.device)).cpu())
        return torch.stack(found)

    def choose(self, texts: Sequence[str], candidates: Tensor) -> Tensor:
        """Of candidates (candidates, n, D) that nearest to each text, (n, D)."""
        near = (candidates * self.data.clip.embed_texts(texts).cpu()).sum(2)
        return candidates[near.argmax(0), torch.arange(len(texts))]

    def sample(self, texts: Sequence[str], seeds: Sequence[int], how: PriorSampling = PriorSampling()) -> GivenVectors:
        """One vector for each of n texts; the k-th depends on its own text and seed only."""
        chosen = direction(self.choose(texts, self.draw(texts, seeds, how)))
        source: dict[str, Any] = {
            "kind": "prior",
            "prior": self.pipeline.model_hash,
            "prior_path": None if self.pipeline.path is None else str(self.pipeline.path),
            "guidance_scale": how.guidance_scale,
            "num_steps": how.num_steps,
            "candidates": how.candidates,
        }
        return GivenVectors(chosen, source=source)


def _apart(seed: int, number: int) -> int:
    """A seed of 64 bits for candidate `number` of the picture with this seed."""
    return (seed + (number + 1) * _APART + 2**63) % 2**64 - 2**63
