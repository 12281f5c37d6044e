"""Backbones: the only room that knows layers."""

from kakusan.nn.attention import LinearAttention, SoftmaxAttention
from kakusan.nn.blocks import ConvNeXtBlocks, ResidualBlocks
from kakusan.nn.control import Controlled
from kakusan.nn.dit import DiT, PatchEmbedding
from kakusan.nn.edm2 import MagnitudePreservingUNet
from kakusan.nn.fourier import FourierFeatures, level_frequencies
from kakusan.nn.mlp import MLP
from kakusan.nn.patch import Patched
from kakusan.nn.tokens import ContextTokens, CrossTokens
from kakusan.nn.transformer import Route, Transformer
from kakusan.nn.unet import UNet

__all__ = [
    "MLP",
    "ContextTokens",
    "Controlled",
    "ConvNeXtBlocks",
    "CrossTokens",
    "DiT",
    "FourierFeatures",
    "LinearAttention",
    "MagnitudePreservingUNet",
    "PatchEmbedding",
    "Patched",
    "ResidualBlocks",
    "Route",
    "SoftmaxAttention",
    "Transformer",
    "UNet",
    "level_frequencies",
]
