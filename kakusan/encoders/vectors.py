"""Vectors of a CLIP as conditions: trained on pictures alone, asked with texts or with pictures.

The decoder of DALL-E 2 (Ramesh et al. 2022, arXiv 2204.06125, section 2.1) is such a model: it draws pictures of which
a CLIP says what it says of a given one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.conditioning import Condition, Conditioner
from kakusan.encoders.clip import BRIDGES, Clip
from kakusan.encoders.weighting import weighted
from kakusan.inversion.mixing import slerp
from kakusan.nn.norms import full_precision
from kakusan.noise import Draws
from kakusan.pairs import Given
from kakusan.specs import register, suggestion

# The number of `Draws` that moves a vector.
_MOVED = 5


@dataclass(frozen=True, eq=False)
class GivenVectors(Given):
    """Vectors of pictures that samples are to have: `spatial` is (B, D), of length 1.

    Args:
        source: where they come from, for the record.
    """

    source: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return {**super().record(), **({"source": dict(self.source)} if self.source else {})}


@register
class ImageVectors(Conditioner):
    """The CLIP vector of a picture -> a vector (B, width) for the network.

    Training knows no texts: the condition of a picture is the direction that a frozen CLIP gives it. Afterwards a text
    takes its place, carried over to where pictures are by a bridge of that CLIP, or by a prior (`kakusan.prior`). "No
    condition" is a learned vector, its raw value is zero. The CLIP is a part of the model and lies in its folder.

    Directions of pictures share most of their length. What the network is told is therefore (e - m) / s with m the mean
    of directions that the CLIP measured and s^2 = (1 - |m|^2) / D: features of mean square 1.

    Args:
        clip: stays as it is.
        width: of the vector.
        size: (H, W) of the pictures that the CLIP was trained on; others are brought to it.
        dropout: how often training puts "no condition" in place of a vector.
        bridge: none, shift or linear: how texts are carried over (`Clip.embed_texts`).
        noise: length of a random vector that training adds to each direction, of length 1, before its length is made 1
            again: nearby directions then mean the same, texts among them (Zhou et al. 2021, LAFITE, arXiv 2111.13792).
        identity: of the CLIP's folder, by which a prior is known to fit.

    Raises:
        ValueError: no such bridge, or numbers out of range.
    """

    reads_texts = True
    follows_both = False

    def __init__(
        self,
        *,
        clip: Clip,
        width: int,
        size: Sequence[int],
        dropout: float = 0.1,
        bridge: str = "linear",
        noise: float = 0.0,
        identity: str = "",
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"condition dropout is a probability in [0, 1), got {dropout}")
        if bridge not in BRIDGES:
            raise ValueError(f"no bridge {bridge!r}{suggestion(bridge, list(BRIDGES))}; there are {', '.join(BRIDGES)}")
        if not 0.0 <= noise < float("inf"):
            raise ValueError(f"the noise on a CLIP vector is a length, 0 or more; got {noise}")
        self.clip, self.size = clip.requires_grad_(False), tuple(size)
        self.dropout, self.bridge, self.noise, self.identity = dropout, bridge, noise, identity
        self.project = nn.Linear(clip.vector_width, width)
        self.nothing_known = nn.Parameter(torch.randn(clip.vector_width))

    def train(self, mode: bool = True) -> ImageVectors:
        """As every module; the CLIP stays as it is used."""
        super().train(mode)
        self.clip.eval()
        return self

    def forward(self, raw: Tensor) -> Condition:
        """Directions (B, D), rows of zeros for "no condition" -> `Condition(vector=(B, width))`.

        Raises:
            ValueError: class indices, which this model was not trained on.
        """
        if raw.dim() != 2 or not raw.is_floating_point():
            raise ValueError("this model was trained on CLIP vectors, not on classes; ask it with a text")
        known = (raw != 0.0).any(1, keepdim=True)
        return Condition(vector=self.project(torch.where(known, standardised(self.clip, raw), self.nothing_known)))

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in model units -> directions (B, D), of length 1."""
        with full_precision(x):
            return self.clip.embed_images(fitted(self.clip, x.float(), self.size)).to(x.device)

    def raw(
        self,
        x0: Tensor,
        labels: Tensor | None,
        draws: Draws,
        partner: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """The directions (B, D) of training pictures, moved where `noise` says so."""
        e = self.embed(x0)
        return e if self.noise == 0.0 else moved(e, self.noise, draws)

    def asked(self, labels: Sequence[int | str]) -> Tensor:
        """Texts -> directions (B, D) where pictures are; an empty text is "no condition"."""
        numbers = [label for label in labels if not isinstance(label, str)]
        if numbers:
            raise ValueError(f"this model is asked with texts, not with classes: ask it with one, got {numbers[0]!r}")
        texts = [weighted(str(label)).text for label in labels]
        found = self.clip.embed_texts(texts, bridge=self.bridge)
        empty = torch.tensor([not text.strip() for text in texts], device=found.device)
        return found.masked_fill(empty.unsqueeze(1), 0.0)

    def notes(self, prompt: str) -> list[str]:
        """What happened to a prompt on its way here, one sentence for each thing worth saying."""
        said = weighted(prompt)
        lost = ["weights of words count for models of tokens only; this one is asked with one vector of the whole text"]
        return [*said.notes, *(lost if said.spans else []), *self.clip.text.report(said.text).notes()]

    def start(self, given: Any, labels: Any, seeds: Tensor) -> Condition:
        """Of given directions; of `labels` where there are any (a text to be led away from, or to mix in)."""
        if labels is not None:
            return self(labels)
        if not isinstance(given, GivenVectors) or given.spatial.shape[1:] != (self.clip.vector_width,):
            raise ValueError(
                f"this model is given CLIP vectors (B, {self.clip.vector_width}), as GivenVectors of "
                "kakusan.encoders.vectors; it does not start from a picture itself"
            )
        return self(given.expand(len(seeds)).spatial.to(self.nothing_known))

    def nothing(self, batch: int) -> Tensor:
        return self.nothing_known.new_zeros(batch, self.clip.vector_width)

    def null_raw(self, raw: Tensor) -> Tensor:
        return torch.zeros_like(raw)

    def null(self, batch: int = 1) -> Condition:
        if self.dropout == 0.0:
            raise ValueError(
                "this model was trained without condition dropout, so it cannot be guided nor sampled without a text "
                "or a picture; use guidance_scale=1, or train with condition dropout > 0"
            )
        return self(self.nothing(batch))


def direction(x: Tensor) -> Tensor:
    """Vectors (B, D) of length 1."""
    return F.normalize(x, dim=-1)


def spread(clip: Clip) -> Tensor:
    """s, (): root mean square of a feature of directions around their mean."""
    return ((1.0 - clip.image_mean.square().sum()).clamp_min(1e-4) / clip.vector_width).sqrt()


def standardised(clip: Clip, e: Tensor) -> Tensor:
    """Directions of pictures (B, D) -> features of mean 0 and mean square 1."""
    return (e - clip.image_mean) / spread(clip)


def directed(clip: Clip, z: Tensor) -> Tensor:
    """Standardised features (B, D) -> directions (B, D), of length 1."""
    return direction(z * spread(clip) + clip.image_mean)


def fitted(clip: Clip, x: Tensor, size: Sequence[int]) -> Tensor:
    """Pictures (B, C, H, W) at the size (H, W) that a CLIP was trained on.

    Raises:
        ValueError: another number of channels, or no pictures.
    """
    if x.dim() != 4 or x.shape[1] != clip.image.channels:
        raise ValueError(
            f"this CLIP sees pictures (B, {clip.image.channels}, H, W), got {tuple(x.shape)}; train one on "
            "such pictures"
        )
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)


def moved(e: Tensor, noise: float, draws: Draws) -> Tensor:
    """Directions (B, D), each with a random vector of length `noise` added, of length 1 again."""
    return direction(e + noise * direction(draws.normal(_MOVED, e)))


def along_texts(clip: Clip, e: Tensor, texts: tuple[str, str], share: float, *, bridge: str = "none") -> Tensor:
    """Directions (B, D) led from what the first text says towards what the second says (Ramesh et al. 2022, section
    3.3): on the arc from each to the direction of the difference of both texts.

    Args:
        share: of that arc; the paper goes to 0.25 to 0.5.
        bridge: how the texts are carried over before the difference is taken; the paper takes them as they are.

    Raises:
        ValueError: texts that the CLIP does not tell apart.
    """
    first, second = clip.embed_texts(texts, bridge=bridge)
    difference = second - first
    if float(difference.norm()) < 1e-4:
        raise ValueError(f"this CLIP does not tell {texts[0]!r} from {texts[1]!r}, so there is no way between them")
    return slerp(e, direction(difference).expand_as(e), share)
