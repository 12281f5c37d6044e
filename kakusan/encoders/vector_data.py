"""CLIP vectors of pictures as data, so that a prior is trained, sampled and stored as every other model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kakusan.data.derived import DerivedPictures, DerivedSpec
from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec
from kakusan.encoders.clip import Clip
from kakusan.encoders.folder import StoredClip
from kakusan.encoders.vectors import directed, fitted, standardised
from kakusan.specs import register

_AT_ONCE = 256


@register
@dataclass(frozen=True, kw_only=True, eq=False)
class VectorSpec(DerivedSpec):
    """What CLIP vectors of pictures are: standardised directions (B, D, 1), and the way to them from stored pictures.

    Each feature has mean square 1 on the pictures of the CLIP (`kakusan.encoders.vectors.standardised`). There is no
    way back to pictures: a decoder draws them.

    Args:
        pixels: the spec of the pictures.
        clip: its weights lie beside the model's.
        clip_size: (H, W) of the pictures that the CLIP was trained on.
        identity: of the CLIP's folder.
    """

    clip: Clip
    clip_size: tuple[int, ...]
    identity: str = ""
    noun = "CLIP vectors"
    damaged = "this CLIP is damaged, train another"

    @classmethod
    def of(cls, pixels: DataSpec, stored: StoredClip) -> VectorSpec:
        """The vectors that a CLIP gives to pictures of the spec `pixels`.

        Raises:
            ValueError: pictures that are changed while training goes on.
        """
        more = {"clip": stored.clip, "clip_size": stored.data.size, "identity": stored.model_hash}
        return cls._of(pixels, (stored.clip.vector_width, 1), **more)

    def networks(self) -> Mapping[str, nn.Module]:
        return {"clip": self.clip}

    def made(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] -> standardised vectors (B, D, 1)."""
        vectors = self.clip.embed_images(fitted(self.clip, x, self.clip_size))
        return standardised(self.clip, vectors).unsqueeze(2).to(x.device)

    def directions(self, x: Tensor) -> Tensor:
        """Vectors (B, D, 1) -> directions (B, D), of length 1."""
        return directed(self.clip, x[..., 0].to(self.clip.image_mean))

    def to_stored(self, x: Tensor) -> Tensor:
        raise ValueError("this model draws CLIP vectors, not pictures: use it with kakusan generate DECODER --prior")

    def to_pil(self, x: Tensor) -> list[Image.Image]:
        raise ValueError("this model draws CLIP vectors, not pictures: use it with kakusan generate DECODER --prior")


class VectorPictures(DerivedPictures):
    """The CLIP vectors of a data set, in its place; made at once and held in memory."""

    def __init__(self, pictures: Pictures, stored: StoredClip, *, say: Callable[[str], None] | None = None) -> None:
        super().__init__(pictures, "vectors", stored.model_hash)
        self.spec = VectorSpec.of(pictures.spec, stored)
        if say is not None:
            say(f"a CLIP vector of each of {len(pictures)} pictures")
            if pictures.spec.flip:
                say("note: vectors are of the pictures as they are; none is mirrored")
        rows = np.arange(len(pictures))
        parts = [pictures.read(rows[start : start + _AT_ONCE]) for start in range(0, len(rows), _AT_ONCE)]
        self._vectors = torch.cat([self.spec.to_model(part) for part in parts])
        self.spec.check(self._vectors)

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Vectors (n, D, 1) float32."""
        return self._vectors[torch.as_tensor(np.asarray(indices), dtype=torch.int64)]
