"""Autoencoders: pictures to small latents and back, trained here. `load` opens a stored one."""

from kakusan.autoencoders.base import Autoencoder
from kakusan.autoencoders.cache import LatentCache
from kakusan.autoencoders.folder import StoredAutoencoder, load, read
from kakusan.autoencoders.kinds import KINDS
from kakusan.autoencoders.kl import KlAutoencoder
from kakusan.autoencoders.vq import VqAutoencoder

__all__ = [
    "KINDS",
    "Autoencoder",
    "KlAutoencoder",
    "LatentCache",
    "StoredAutoencoder",
    "VqAutoencoder",
    "load",
    "read",
]
