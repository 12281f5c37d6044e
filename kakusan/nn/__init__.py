"""Backbones: the only room that knows layers."""

from kakusan.nn.attention import LinearAttention, SoftmaxAttention
from kakusan.nn.blocks import ConvNeXtBlocks, ResidualBlocks
from kakusan.nn.patch import Patched
from kakusan.nn.unet import UNet

__all__ = ["ConvNeXtBlocks", "LinearAttention", "Patched", "ResidualBlocks", "SoftmaxAttention", "UNet"]
