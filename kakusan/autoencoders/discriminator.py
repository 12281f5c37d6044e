"""The patch discriminator: every place of a picture is judged by what is around it (Isola et al. 2017, 1611.07004)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.autoencoders.networks import PlaceNorm, fold
from kakusan.nn.blocks import Downsample, conv
from kakusan.specs import suggestion


class PatchDiscriminator(nn.Module):
    """Pictures (B, C, *size) -> one score for each patch (B, 1, *(size / 8)), high for real pictures.

    Args:
        channels: of the pictures.
        rank: number of spatial dimensions.
        width: channels of the finest grid.
    """

    def __init__(self, channels: int, *, rank: int = 2, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(rank, channels * 2**rank, width)]
        for _ in range(2):
            layers += [nn.LeakyReLU(0.2), Downsample(rank), conv(rank, width, 2 * width), PlaceNorm(2 * width)]
            width *= 2
        layers += [nn.LeakyReLU(0.2), conv(rank, width, 1)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        missing = [-side % 8 for side in x.shape[2:]]
        if any(missing):
            x = F.pad(x, [n for side in reversed(missing) for n in (0, side)], mode="replicate")
        out: Tensor = self.body(fold(x, 2))
        return out


@dataclass(frozen=True)
class Game:
    """What the two sides of the game minimise, (B,) each.

    Args:
        judge: of the scores of real pictures and of theirs decoded.
        maker: of the same.
    """

    judge: Callable[[Tensor, Tensor], Tensor]
    maker: Callable[[Tensor, Tensor], Tensor]


def _mean(scores: Tensor) -> Tensor:
    return scores.float().flatten(1).mean(1)


GAMES: Mapping[str, Game] = {
    # Lim & Ye 2017 (arXiv 1705.02894), as in VQGAN (arXiv 2012.09841).
    "hinge": Game(
        judge=lambda real, fake: 0.5 * (_mean(F.relu(1.0 - real)) + _mean(F.relu(1.0 + fake))),
        maker=lambda real, fake: -_mean(fake),
    ),
    # Jolicoeur-Martineau 2018 (arXiv 1807.00734): a patch is set against the same patch of the real picture.
    "relativistic": Game(
        judge=lambda real, fake: _mean(F.softplus(fake - real)),
        maker=lambda real, fake: _mean(F.softplus(real - fake)),
    ),
}


def game_of(name: str) -> Game:
    """A game by name.

    Raises:
        ValueError: no such game.
    """
    if name not in GAMES:
        raise ValueError(f"no game {name!r}{suggestion(name, list(GAMES))}; there are {', '.join(GAMES)}")
    return GAMES[name]
