"""The kinds of autoencoder by name."""

from __future__ import annotations

from kakusan.autoencoders.base import Autoencoder
from kakusan.autoencoders.kl import KlAutoencoder
from kakusan.autoencoders.vq import VqAutoencoder

KINDS: dict[str, type[Autoencoder]] = {"kl": KlAutoencoder, "vq": VqAutoencoder}
