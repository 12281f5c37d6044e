"""CLIP vectors of pictures as data, so that a prior is trained, sampled and stored as every other model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec
from kakusan.encoders.clip import Clip
from kakusan.encoders.folder import StoredClip
from kakusan.encoders.vectors import directed, fitted, standardised
from kakusan.specs import register

_AT_ONCE = 256


@register
@dataclass(frozen=True, kw_only=True, eq=False)
class VectorSpec(DataSpec):
    """What CLIP vectors of pictures are: standardised directions (B, D, 1), and the way to them from stored pictures.

    Each feature has mean square 1 on the pictures of the CLIP (`kakusan.encoders.vectors.standardised`). There is no
    way back to pictures: a decoder draws them.

    Args:
        pixels: the spec of the pictures.
        clip: its weights lie beside the model's.
        clip_size: (H, W) of the pictures that the CLIP was trained on.
        identity: of the CLIP's folder.
    """

    pixels: DataSpec
    clip: Clip
    clip_size: tuple[int, ...]
    identity: str = ""

    @classmethod
    def of(cls, pixels: DataSpec, stored: StoredClip) -> VectorSpec:
        """The vectors that a CLIP gives to pictures of the spec `pixels`.

        Raises:
            ValueError: pictures that are changed while training goes on.
        """
        if pixels.augment:
            raise ValueError("vectors are made once, so pictures cannot be changed at random: leave augment at 0")
        width = stored.clip.vector_width
        return cls(
            channels=width,
            size=(1,),
            mean=(0.0,) * width,
            std=(1.0,) * width,
            mode="",
            bits=pixels.bits,
            classes=pixels.classes,
            pixels=pixels,
            clip=stored.clip,
            clip_size=stored.data.size,
            identity=stored.model_hash,
        )

    @property
    def pictured(self) -> DataSpec:
        return self.pixels

    def networks(self) -> Mapping[str, nn.Module]:
        return {"clip": self.clip}

    def to_model(self, stored: Tensor) -> Tensor:
        """Stored pictures (B, C, H, W) -> vectors (B, D, 1); vectors stay as they are."""
        if stored.is_floating_point():
            return stored.to(torch.float32)
        x = fitted(self.clip, self.pixels.to_model(stored), self.clip_size)
        return standardised(self.clip, self.clip.embed_images(x)).unsqueeze(2).to(stored.device)

    def directions(self, x: Tensor) -> Tensor:
        """Vectors (B, D, 1) -> directions (B, D), of length 1."""
        return directed(self.clip, x[..., 0].to(self.clip.image_mean))

    def snap(self, x: Tensor) -> Tensor:
        """Vectors have no nearest ones that can be stored: unchanged."""
        return x

    def to_stored(self, x: Tensor) -> Tensor:
        raise ValueError("this model draws CLIP vectors, not pictures: use it with kakusan generate DECODER --prior")

    def to_pil(self, x: Tensor) -> list[Image.Image]:
        raise ValueError("this model draws CLIP vectors, not pictures: use it with kakusan generate DECODER --prior")

    def check(self, stored: Tensor) -> None:
        """Refuse a batch that is neither vectors nor stored pictures of this spec.

        Raises:
            ValueError: saying what it is.
        """
        if not stored.is_floating_point():
            self.pixels.check(stored)
            return
        self._check_shape(stored)
        if not bool(stored.isfinite().all()):
            raise ValueError("CLIP vectors that are not finite; this CLIP is damaged, train another")


class VectorPictures:
    """The CLIP vectors of a data set, in its place; made at once and held in memory.

    `pixels` is the data set itself. Labels, captions and names are its own.
    """

    def __init__(self, pictures: Pictures, stored: StoredClip, *, say: Callable[[str], None] | None = None) -> None:
        self.pixels, self.spec = pictures, VectorSpec.of(pictures.spec, stored)
        self.labels, self.captions, self.texts = pictures.labels, pictures.captions, pictures.texts
        self.notes = tuple(pictures.notes)
        said = f"vectors {pictures.fingerprint} {stored.model_hash}"
        self.fingerprint = hashlib.sha256(said.encode()).hexdigest()
        if say is not None:
            say(f"a CLIP vector of each of {len(pictures)} pictures")
            if pictures.spec.flip:
                say("note: vectors are of the pictures as they are; none is mirrored")
        rows = np.arange(len(pictures))
        parts = [pictures.read(rows[start : start + _AT_ONCE]) for start in range(0, len(rows), _AT_ONCE)]
        self._vectors = torch.cat([self.spec.to_model(part) for part in parts])
        self.spec.check(self._vectors)

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Vectors (n, D, 1) float32."""
        return self._vectors[torch.as_tensor(np.asarray(indices), dtype=torch.int64)]

    def name(self, index: int) -> str:
        """What to call one picture in messages."""
        return self.pixels.name(index)

    def digest(self, index: int) -> str:
        """Hash of one picture's content."""
        return self.pixels.digest(index)
