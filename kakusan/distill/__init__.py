"""Training a model on what another one draws, so that fewer steps suffice."""

from kakusan.distill.reflow import PairFacts, PairFolder, Pairs, coupling_of_start, draw_pairs

__all__ = ["PairFacts", "PairFolder", "Pairs", "coupling_of_start", "draw_pairs"]
