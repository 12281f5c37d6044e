"""Backbones: the only room that knows layers."""

from kakusan.nn.attention import LinearAttention, SoftmaxAttention
from kakusan.nn.blocks import ConvNeXtBlocks, ResidualBlocks
from kakusan.nn.fourier import FourierFeatures, level_frequencies
from kakusan.nn.mlp import MLP
from kakusan.nn.patch import Patched
from kakusan.nn.unet import UNet

__all__ = [
    "MLP",
    "ConvNeXtBlocks",
    "FourierFeatures",
    "LinearAttention",
    "Patched",
    "ResidualBlocks",
    "SoftmaxAttention",
    "UNet",
    "level_frequencies",
]
