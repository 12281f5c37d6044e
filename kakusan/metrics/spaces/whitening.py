"""Features brought to a common scale by pictures that no distance is taken to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces.base import NetworkSpace, features, hash_of_network

FEWEST = 8
"""Pictures below which there is no scale to learn."""

_SEEN_PER_DIRECTION = 4
_FLOOR = 0.01


@dataclass(frozen=True)
class Whitening:
    """An affine map of features (N, D) to (N, K): leading principal directions, brought towards unit variance.

    Raw features of a network lie almost in a line: a Frechet distance between them is the brightness of the pictures
    and little else, and repeats badly. After whitening more directions count. On the embedded flowers this cuts
    the spread of real pictures' scores in "random" and "patches" to about a fifth, and most faults stand out several
    times as clearly (docs/log.md).

    Args:
        mean: (D,) float64.
        matrix: (D, K) float64.
    """

    mean: Tensor
    matrix: Tensor

    @classmethod
    def fit(cls, found: Tensor, *, most: int, power: float) -> Whitening:
        """From features (N, D) of real pictures: centred, scaled, turned to principal directions, scaled again.

        Args:
            found: (N, D).
            most: directions kept; fewer where there are not four pictures for each.
            power: 1 gives every direction the variance 1, 0 leaves it.

        Raises:
            ValueError: fewer than 8 pictures.
        """
        if len(found) < FEWEST:
            raise ValueError(
                f"a feature space needs at least {FEWEST} pictures to learn its scale, there are {len(found)}"
            )
        found = found.double()
        mean = found.mean(0)
        deviation = found.std(0)
        # A feature that never changes would be divided by nothing.
        scale = 1.0 / deviation.clamp_min(1e-3 * float(deviation.mean()) + 1e-12)
        covariance = torch.cov(((found - mean) * scale).T).reshape(len(mean), len(mean))
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
        kept = max(2, min(most, len(mean), len(found) // _SEEN_PER_DIRECTION))
        # The sign of an eigenvector is the library's choice: the largest entry is made positive.
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        floor = _FLOOR * float(values.mean()) + 1e-12
        return cls(mean, (scale[:, None] * vectors * (values + floor).pow(-power / 2.0))[:, :kept].contiguous())

    def __call__(self, found: Tensor) -> Tensor:
        """Features (N, K), float64."""
        whitened: Tensor = (found.double() - self.mean) @ self.matrix
        return whitened


class WhitenedSpace(NetworkSpace):
    """A network's features, whitened by pictures that are in no distance.

    The hash holds the weights, the pictures and the versions, not the whitening: that follows from them, to the
    rounding of the machine.

    Args:
        name: of the space.
        network: in eval mode.
        learning: pictures that the whitening is fitted to.
        function: pictures (B, C, H, W) -> features (B, D); the network itself when not given.
        most: directions kept.
        power: of the whitening.
        version: of the code around the weights.
        resizer: how pictures come to the size the network wants.

    Raises:
        ValueError: fewer than 8 pictures to learn from.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        learning: PictureSet,
        function: Callable[[Tensor], Tensor] | None = None,
        *,
        most: int = 64,
        power: float = 0.5,
        version: int = 1,
        resizer: str = "none",
    ) -> None:
        super().__init__(name, network, function, version=version)
        self.resizer = resizer
        self.hash = hash_of_network(network, name, version, learning.hash, most, power)
        raw = features(NetworkSpace(name, network, function, version=version), learning)
        self.whitening = Whitening.fit(raw, most=most, power=power)

    def __call__(self, x: Tensor) -> Tensor:
        """Features (B, K), float64."""
        return self.whitening(super().__call__(x))
