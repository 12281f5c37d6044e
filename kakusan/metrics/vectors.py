"""How near the CLIP vectors made from texts come to those of the pictures that the texts are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor


@dataclass(frozen=True)
class Nearness:
    """Vectors made in one way from texts, against those of their pictures.

    Args:
        cosine: mean, with each text's own picture.
        error: standard error of that mean.
        others: mean, with the pictures of the other texts.
        spread: variance of these vectors as a share of the pictures'; a way that gives one vector where pictures
            differ has less than 1.
        count: texts.
    """

    cosine: float
    error: float
    others: float
    spread: float
    count: int

    @classmethod
    def between(cls, images: Tensor, found: Tensor) -> Nearness:
        """Of directions (N, D) of pictures, and of those made for their texts.

        Raises:
            ValueError: fewer than two, or numbers that differ.
        """
        if images.shape != found.shape or len(images) < 2:
            raise ValueError(f"at least two pairs of vectors are compared, got {len(images)} and {len(found)}")
        images, found = images.double(), found.double()
        cosines = found @ images.T
        own = cosines.diagonal()
        count = len(own)
        return cls(
            cosine=float(own.mean()),
            error=float(own.std() / count**0.5),
            others=float((cosines.sum() - own.sum()) / (count * (count - 1))),
            spread=float(_variance(found) / _variance(images)),
            count=count,
        )

    def said(self) -> str:
        """For people."""
        return (
            f"cosine to own picture {self.cosine:.3f} +- {self.error:.3f}, to others {self.others:.3f}, spread "
            f"{self.spread:.2f}"
        )

    def record(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def nearness(images: Tensor, ways: Mapping[str, Tensor]) -> dict[str, Nearness]:
    """Several ways, in order."""
    return {name: Nearness.between(images, found) for name, found in ways.items()}


def table(found: Mapping[str, Nearness]) -> list[str]:
    """Lines for people."""
    wide = max(map(len, found))
    return [f"{name:<{wide}}  {row.said()}" for name, row in found.items()]


def _variance(vectors: Tensor) -> Tensor:
    return (vectors - vectors.mean(0)).square().sum(1).mean().clamp_min(1e-12)
