"""The pictures of a run, as they are, as the latents of an autoencoder or as the vectors of a CLIP."""

from __future__ import annotations

from collections.abc import Callable

from kakusan import autoencoders
from kakusan.autoencoders.cache import LatentCache
from kakusan.autoencoders.latents import LatentPictures
from kakusan.config import DataSettings
from kakusan.data.source import Pictures
from kakusan.distill.reflow import Pairs
from kakusan.encoders import folder as clip_folder
from kakusan.encoders.vector_data import VectorPictures
from kakusan.train.sources import open_parts
from kakusan.train.vector_settings import VectorSettings


def open_trained(
    data: DataSettings,
    *,
    seed: int,
    say: Callable[[str], None] | None = None,
    vectors: VectorSettings = VectorSettings(),  # noqa: B008 (frozen)
) -> tuple[Pictures, Pictures]:
    """(what to train on, what to measure on); what was decided on the way goes to `say`.

    Raises:
        ValueError: as `open_parts`, or an autoencoder that does not fit the pictures.
    """
    parts = open_parts(data, seed=seed, say=say)
    if vectors.prior and vectors.clip is not None:
        clip = clip_folder.load(vectors.clip)
        of_training, of_held_out = (VectorPictures(part, clip, say=say) if len(part) else part for part in parts)
        return of_training, of_held_out
    if data.autoencoder is None:
        return parts
    if data.pair is not None:
        raise ValueError("a model of latents cannot start from a picture yet: leave out pair or autoencoder")
    if isinstance(parts[0], Pairs):
        raise ValueError("pairs of reflow are what a model draws already: leave autoencoder out")
    stored = autoencoders.read(data.autoencoder)
    stored.check_fits(parts[0].spec)
    training, held_out = (_encoded(part, stored.autoencoder, say) for part in parts)
    return training, held_out


def _encoded(pictures: Pictures, autoencoder: autoencoders.Autoencoder, say: Callable[[str], None] | None) -> Pictures:
    if len(pictures) == 0:
        return pictures
    return LatentPictures(pictures, autoencoder, LatentCache.open(pictures, autoencoder, say=say))
