"""How different two pictures look to a network: the distance between its layers, in the manner of LPIPS."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.metrics.classifier import Classifier


@torch.no_grad()
def perceptual_distance(judge: Classifier, x: Tensor, truth: Tensor) -> Tensor:
    """Distance of each picture to its truth after every stage of a classifier of such pictures, (B,); 0 where equal.

    Channels are brought to unit length at every place and their squared difference is averaged over places and added up
    over stages (Zhang et al. 2018, arXiv 1801.03924, eq. 1, with the plain weights of its "cosine" form: no ratings of
    people are used). Numbers of different judges are not comparable.

    Args:
        judge: trained on such pictures (`train_classifier`).
        x: (B, C, H, W) in [-1, 1].
        truth: (B, C, H, W).

    Raises:
        ValueError: other shapes.
    """
    if x.shape != truth.shape:
        raise ValueError(f"pictures of shape {tuple(x.shape)} cannot be compared with {tuple(truth.shape)}")
    if judge.shrink > 1:
        x, truth = (F.avg_pool2d(pictures, judge.shrink, ceil_mode=True) for pictures in (x, truth))
    total = x.new_zeros(len(x))
    a, b = x, truth
    for layer in judge.body:
        a, b = layer(a), layer(b)
        if isinstance(layer, nn.ReLU):
            total += (F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6)).square().sum(1).mean((1, 2))
    return total
