"""Pictures by CLIP's image tower (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.encoders.pretrained.held import Held, check_precision, on, open_network
from kakusan.encoders.pretrained.place import PREPROCESSOR, Place, find, look, read_json
from kakusan.extras import need
from kakusan.specs import from_spec, register, to_spec

_WHAT = "a pretrained image encoder"
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_MODES = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Preparation:
    """How pictures come to the network, as its `preprocessor_config.json` says.

    Args:
        shortest: side to which the shorter side is brought; None where `size` says both.
        size: (height, width) to which a picture is brought without regard to its shape.
        crop: (height, width) cut from the middle; None for none.
        mode: of resizing, with antialias.
        mean: of the channels, of values in [0, 1].
        std: the same.
    """

    shortest: int | None = 224
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = (224, 224)
    mode: str = "bicubic"
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD

    @classmethod
    def read(cls, place: Place) -> Preparation:
        """From a folder; what CLIP does where there is no such file.

        Raises:
            ValueError: a preparation that is not known here.
        """
        path = place.files.get(PREPROCESSOR)
        if path is None:
            return cls()
        said = read_json(path)
        try:
            resize, crop = said.get("size", 224), said.get("crop_size", 224)
            both = isinstance(resize, dict) and "height" in resize
            side: Any = resize.get("shortest_edge") if isinstance(resize, dict) else resize
            resizing = said.get("do_resize", True)
            return cls(
                None if both or not resizing else int(side),
                (int(resize["height"]), int(resize["width"])) if both and resizing else None,
                _square(crop) if said.get("do_center_crop", True) else None,
                _MODES[int(said.get("resample", 3))],
                *_statistics(said),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} asks for a preparation of pictures that kakusan does not know: {error!r}"
            ) from None

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [-1, 1] -> (B, 3, h, w) as the network takes it; differentiable, without rounding."""
        x = (x.expand(-1, 3, -1, -1) + 1.0) / 2.0
        height, width = x.shape[2:]
        size = self.size
        if self.shortest is not None:
            least = min(height, width)
            size = (self.shortest * height // least, self.shortest * width // least)
        if size is not None and size != (height, width):
            # Values beyond the ends are cut as they are where pictures have 8 bits.
            x = F.interpolate(x, size=size, mode=self.mode, antialias=True, align_corners=False).clamp(0.0, 1.0)
        if self.crop is not None:
            x = _middle(x, self.crop)
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std


def _square(size: Any) -> tuple[int, int]:
    return (int(size["height"]), int(size["width"])) if isinstance(size, dict) else (int(size), int(size))


def _statistics(said: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not said.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    mean, std = (
        tuple(map(float, said.get(name, usual))) for name, usual in (("image_mean", _MEAN), ("image_std", _STD))
    )
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0.0:
        raise ValueError(f"mean {mean} and std {std}")
    return mean, std


def _middle(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of a picture; black around it where it is smaller."""
    for axis, side in zip((2, 3), size, strict=True):
        have = x.shape[axis]
        if have < side:
            before = (side - have) // 2
            edges = (before, side - have - before)
            x = F.pad(x, (*edges, 0, 0) if axis == 3 else (0, 0, *edges))
        else:
            x = x.narrow(axis, (have - side) // 2, side)
    return x


@register
class PretrainedClipImage(nn.Module):
    """The image tower of CLIP, frozen: pictures -> vectors in the space that texts are in as well.

    `forward(x)`: (B, 1 or 3, H, W) in [-1, 1] -> (B, vector_width) float32, not normalised, differentiable in x. As
    `PretrainedText` it owns no network, stores folder and hash, and loads when it is first used.

    Args:
        folder: where the network lies.
        content: hash of its files.
        vector_width: features of a picture.
        precision: float32, bfloat16 or float16, of the network.
    """

    def __init__(self, *, folder: str, content: str, vector_width: int, precision: str = "float32") -> None:
        super().__init__()
        check_precision(precision)
        self.folder, self.content, self.vector_width, self.precision = folder, content, vector_width, precision
        self.register_buffer("here", torch.empty(0), persistent=False)
        self.here: Tensor
        self._place = place = Held(lambda: find(folder, content, tokenizer=False, preprocessor=True))
        self._prepare: Held[Callable[[Tensor], Tensor]] = Held(lambda: Preparation.read(place.get()))
        self._network: Held[nn.Module] = Held(lambda: _open(place.get(), precision))

    @classmethod
    def from_folder(cls, folder: str | Path, *, precision: str = "float32") -> Self:
        """An encoder from a folder with `config.json` and `*.safetensors` of a CLIP model.

        Raises:
            ValueError: files are missing, damaged, pickles or of another network.
        """
        place = look(folder, tokenizer=False, preprocessor=True)
        Preparation.read(place)
        if place.config.get("model_type") not in ("clip", "clip_vision_model"):
            raise ValueError(
                f"{place.folder} holds a network of type {place.config.get('model_type')!r}, expected clip or "
                "clip_vision_model"
            )
        projected = place.shape("visual_projection.weight")
        if projected is None:
            raise ValueError(f"{place.folder} has no visual_projection.weight, so it is no whole image tower of CLIP")
        return cls(
            folder=str(place.folder.resolve()),
            content=place.content(),
            vector_width=projected[0],
            precision=precision,
        )

    @property
    def loaded(self) -> bool:
        """Whether the network is in memory."""
        return self._network.loaded

    def moved(self, folder: str | Path) -> Self:
        """The same encoder, whose network lies elsewhere now; the hash is checked when it is loaded."""
        spec = {**to_spec(self), "folder": str(Path(folder).resolve())}
        return from_spec(spec, type(self)).to(self.here.device)

    def forward(self, x: Tensor) -> Tensor:
        """Raises: ValueError: pictures that are not gray or RGB."""
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"CLIP sees gray or RGB pictures (B, 1 or 3, H, W), got {tuple(x.shape)}")
        device = self.here.device
        network = on(self._network, device)
        with torch.autocast(device.type, enabled=False):
            seen = self._prepare.get()(x.to(device).float()).to(network.dtype)
            found: Tensor = network(pixel_values=seen).image_embeds
        return found.float()


def _open(place: Place, precision: str) -> nn.Module:
    library = need("transformers", extra="pretrained", what=_WHAT)
    return open_network(library, "CLIPVisionModelWithProjection", place, precision=precision)
