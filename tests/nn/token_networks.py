"""What the tests of transformers share: seeded numbers, small networks, and networks off their zero start."""

from __future__ import annotations

import torch

from kakusan.conditioning import Condition, TokenSet
from kakusan.nn import ContextTokens, CrossTokens, DiT, LinearAttention, SoftmaxAttention

ATTENTION = [SoftmaxAttention(heads=2), LinearAttention(heads=2)]
TOKENS = [CrossTokens({"text": 3, "image": 5}), ContextTokens({"text": 3, "image": 5})]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def awake(network, scale=0.3):
    """The network with every parameter moved, so that no layer is zero."""
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = float(parameter.std(correction=0).clamp(min=0.1))
            parameter += scale * spread * torch.randn(parameter.shape, generator=source)
    return network.eval()


def small(**arguments):
    return DiT(**{"channels": 2, "width": 16, "depth": 3, "attention": SoftmaxAttention(heads=2), **arguments})


def token_sets(batch, *, masked=True, seed=0):
    """Two sets of 4 and 2 tokens; of the first, a different number is real in each sample."""
    text, image = randn(batch, 4, 3, seed=seed), randn(batch, 2, 5, seed=seed + 1)
    mask = torch.arange(4) < (torch.arange(batch) % 4 + 1)[:, None]
    return Condition(tokens={"text": TokenSet(text, mask if masked else None), "image": TokenSet(image)})
