"""CLIP: pictures and texts as directions in one space (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.encoders.base import TextEncoder
from kakusan.encoders.contrastive import ContrastiveLoss, SoftmaxContrast, same_texts
from kakusan.encoders.image import ImageTower
from kakusan.nn.norms import full_precision
from kakusan.specs import register

LARGEST_LOG_SCALE = 4.6052
"""The scale stays below 100, as in CLIP: beyond it single pairs decide the loss."""
SMALLEST_LOG_SCALE = 0.0
AT_ONCE = 256
RIDGE = 1e-2


@register
class Clip(nn.Module):
    """Two towers, and the scale and bias of their similarity.

    Pictures and texts that belong together point in like directions, yet the two kinds live apart: the modality gap
    (Liang et al. 2022, arXiv 2203.02053). `measure_gap` keeps what is needed to carry a text over to where pictures
    are (`embed_texts(..., bridge=...)`), for models that were trained on embeddings of pictures.

    Args:
        image: tower of pictures.
        text: tower of texts, with as many features.
        loss: what it is trained with.

    Raises:
        ValueError: towers of different widths.
    """

    image_mean: Tensor
    text_mean: Tensor
    across: Tensor

    def __init__(self, *, image: ImageTower, text: TextEncoder, loss: ContrastiveLoss = SoftmaxContrast()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        if image.vector_width != text.vector_width:
            raise ValueError(
                f"both towers give vectors of one width; pictures have {image.vector_width} features and texts "
                f"{text.vector_width}"
            )
        self.image, self.text, self.loss = image, text, loss
        self.vector_width = image.vector_width
        self.log_scale = nn.Parameter(torch.tensor(float(loss.first_log_scale)))
        self.bias = nn.Parameter(torch.tensor(float(loss.first_bias)))
        width = self.vector_width
        self.register_buffer("image_mean", torch.zeros(width))
        self.register_buffer("text_mean", torch.zeros(width))
        self.register_buffer("across", torch.eye(width))

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, C, H, W) and token numbers (B, L) -> directions (B, D) of both, of length 1."""
        return _direction(self.image(x)), _direction(self.text(ids).vector)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scaled similarity (N, M) of directions (N, D) and (M, D)."""
        # Multiplied by up to 100, what bfloat16 rounds off would decide pairs.
        with full_precision(images):
            return self.scale * images @ texts.T + self.bias

    @property
    def scale(self) -> Tensor:
        """The factor on cosines, (), between 1 and 100."""
        return self.log_scale.clamp(SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE).exp()

    def batch_loss(
        self,
        x: Tensor,
        ids: Tensor,
        also: Tensor | None = None,
        *,
        second: tuple[Tensor, Tensor | None] | None = None,
        agree: float = 0.0,
    ) -> Tensor:
        """The contrastive loss of pictures and their texts, (); equal texts are no negatives of each other.

        With a second text of each picture: the mean of the losses of both, and `agree` times that of the two texts,
        which tells the text tower apart also what the image tower cannot see yet (pairs of captions as in SimCSE, Gao
        et al. 2021, arXiv 2104.08821).

        Args:
            x: (B, C, H, W).
            ids: (B, L).
            also: (B, B) bool, further texts j that belong to picture i as well, another of its captions say.
            second: the same two of another text of each picture.
            agree: weight of the loss between both texts.
        """
        same = _same(ids, also)
        if second is None:
            images, texts = self(x, ids)
            return self.loss(self.logits(images, texts), same)
        others, belong = second
        images = _direction(self.image(x))
        texts, twins = _direction(self.text(torch.cat([ids, others])).vector).chunk(2)
        likewise = _same(others, belong)
        loss = 0.5 * (self.loss(self.logits(images, texts), same) + self.loss(self.logits(images, twins), likewise))
        return loss + agree * self.loss(self.logits(texts, twins), likewise)

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring the learned scale back into its bounds, where gradients reach it."""
        self.log_scale.clamp_(SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.log_scale.device

    @torch.no_grad()
    def embed_images(self, x: Tensor) -> Tensor:
        """Pictures (N, C, H, W) in model units -> directions (N, D)."""
        parts = [_direction(self.image(part.to(self.device))) for part in x.split(AT_ONCE)]
        return torch.cat(parts) if parts else x.new_zeros(0, self.vector_width)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], *, bridge: str = "none") -> Tensor:
        """Texts -> directions (N, D).

        Args:
            texts: of any length; what does not fit the text tower is cut (`clip.text.report`).
            bridge: how they are carried over to where pictures are: `none`, `shift` (the difference of the means) or
                `linear` (the linear map of least squares, with a ridge, between centred pairs).

        Raises:
            ValueError: no such bridge.
        """
        if bridge not in BRIDGES:
            raise ValueError(f"texts are carried over by {', '.join(BRIDGES)}; {bridge!r} is none of them")
        ids = self.text.tokens(texts)
        parts = [_direction(self.text(part.to(self.device)).vector) for part in ids.split(AT_ONCE)]
        found = torch.cat(parts) if parts else torch.zeros(0, self.vector_width, device=self.device)
        return BRIDGES[bridge](self, found)

    @torch.no_grad()
    def measure_gap(self, images: Tensor, texts: Tensor) -> None:
        """Keep the means of both kinds and the linear map between them, of directions (N, D) of pairs."""
        self.image_mean.copy_(images.mean(0))
        self.text_mean.copy_(texts.mean(0))
        left, right = (texts - self.text_mean).double(), (images - self.image_mean).double()
        spread = left.T @ left / len(left)
        ridge = RIDGE * spread.diagonal().mean().clamp_min(1e-12)
        eye = torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
        self.across.copy_(torch.linalg.solve(spread + ridge * eye, left.T @ right / len(left)).to(self.across))


def _same(ids: Tensor, also: Tensor | None) -> Tensor:
    """(B, B) bool, True where text j belongs to picture i."""
    return same_texts(ids) if also is None else same_texts(ids) | also.to(ids.device)


def _direction(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)


def _none(clip: Clip, texts: Tensor) -> Tensor:
    return texts


def _shift(clip: Clip, texts: Tensor) -> Tensor:
    return _direction(texts - clip.text_mean + clip.image_mean)


def _linear(clip: Clip, texts: Tensor) -> Tensor:
    return _direction((texts - clip.text_mean) @ clip.across + clip.image_mean)


BRIDGES: dict[str, Callable[[Clip, Tensor], Tensor]] = {"none": _none, "shift": _shift, "linear": _linear}
"""Ways from where texts are to where pictures are."""


@dataclass(frozen=True)
class Gap:
    """How far texts are from pictures.

    Args:
        distance: between the means of directions; 0 to 2.
        cosine: mean, of texts with their own pictures.
        others: mean, of texts with the pictures of other texts.
    """

    distance: float
    cosine: float
    others: float

    @classmethod
    def between(cls, images: Tensor, texts: Tensor) -> Gap:
        """Of directions (N, D) of pairs."""
        cosines = images @ texts.T
        own = cosines.diagonal()
        others = (cosines.sum() - own.sum()) / max(1, cosines.numel() - len(own))
        return cls(float((images.mean(0) - texts.mean(0)).norm()), float(own.mean()), float(others))

    def record(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)
