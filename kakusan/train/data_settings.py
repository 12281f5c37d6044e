"""Settings of the data: those of every training on pictures, with captions, and of a diffusion model. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from kakusan.train.option_kinds import MaybeFloat, MaybeInt, MaybeText, arg


@dataclass(frozen=True)
class PictureSettings:
    """Which pictures to train on, and how they are brought to one size.

    Args:
        source: a folder or zip file of pictures, tar shards or parquet files (a folder of them, or a pattern), or an
            embedded set (flowers, digits).
        size: side of the (square) pictures the model sees; found from the data when not given.
        fit: how other sizes are brought to it: crop (short side, then the centre), pad (long side, then a border) or
            stretch.
        flip: mirror pictures left to right at random.
        held_out: fraction kept aside to measure on; embedded sets come with their own.
        held_out_seed: of which pictures those are; the run's own seed when not given.
        channels: bring pictures to this many channels; found from the data when not given.
        classes: use these classes only (names or patterns).
        limit_per_class: at most this many pictures of each class.
        num: number of pictures of an embedded set that is drawn by code.
        skip_unreadable: go on without pictures that cannot be read.
        cache: where decoded pictures are kept for the next time: auto (the user's folder for caches, when decoding
            takes long enough), off, or a folder.
    """

    source: Annotated[str, arg(name="data")] = "flowers"
    size: MaybeInt = None
    fit: str = "crop"
    flip: bool = False
    held_out: float = 0.1
    held_out_seed: MaybeInt = None
    channels: MaybeInt = None
    classes: tuple[str, ...] = ()
    limit_per_class: MaybeInt = None
    num: MaybeInt = None
    skip_unreadable: bool = False
    cache: str = "auto"


@dataclass(frozen=True)
class CaptionedSettings(PictureSettings):
    """Pictures, and what is said about them.

    Args:
        captions: a file of captions (jsonl, csv or parquet, also .gz) matched by file name, in place of those beside
            the pictures.
        captions_column: which of its columns.
        captions_where: rows of it to take, as in pairing=exact.
        captioned_only: leave pictures without a caption out.
        templates: captions made from the names of classes where there are none, as in "a picture of a {class}".
    """

    captions: MaybeText = None
    captions_column: MaybeText = None
    captions_where: MaybeText = None
    captioned_only: bool = False
    templates: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSettings(CaptionedSettings):
    """What to train a diffusion model on.

    Args:
        augment: how often training turns, moves, scales, stretches or mirrors a picture, each on its own; the network
            is told, so samples stay as the data are. 0 is off, 0.12 usual; for small sets.
        pair: train to start from a picture: upscale-2, upscale-4, gray, edges, sketch, blurred, masked or noisy, made
            from the pictures themselves; or given, from those of pair_source.
        pair_source: a second folder with the same file names (depth, say), for pair = given.
        pair_noise: most noise, 0 to 1, that training puts on what the network starts from; samples choose theirs up to
            it. 0.4 for upscale, 0.7 for noisy and 0 for others when not given.
        autoencoder: train on the latents of this one (a folder of `kakusan train-autoencoder`), which are encoded once
            and kept; pictures are decoded when they are drawn.
    """

    augment: float = 0.0
    pair: MaybeText = None
    pair_source: MaybeText = None
    pair_noise: MaybeFloat = None
    autoencoder: MaybeText = None
