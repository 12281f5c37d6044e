"""PairConditioner pictures: what a model that enlarges, colours or repaints is trained to start from."""

from kakusan.pairs.base import Given, Pair
from kakusan.pairs.conditioner import PairConditioner, Start
from kakusan.pairs.kinds import PAIRS, Blurred, Brought, Edges, GrayOnly, Masked, Noisy, Shrunk, Sketch

__all__ = [
    "PAIRS",
    "Blurred",
    "Brought",
    "Edges",
    "Given",
    "GrayOnly",
    "Masked",
    "Noisy",
    "Pair",
    "PairConditioner",
    "Shrunk",
    "Sketch",
    "Start",
]
