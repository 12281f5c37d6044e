"""The map of an embedding space: pictures where they lie in a plane, with their captions beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from kakusan.report import style

Floats = npt.NDArray[np.float64]

ITERATIONS = 400
_EXAGGERATION, _EXAGGERATED = 8.0, 100
_SEARCH = 40


def principal_plane(points: Tensor) -> Tensor:
    """The two directions of most spread: (N, D) -> (N, 2) float64; the larger part of each direction points up."""
    centred = points.double() - points.double().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = torch.nn.functional.pad(axes[:2], (0, 0, 0, max(0, 2 - len(axes))))
    strongest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return centred @ (axes * torch.where(strongest < 0, -1.0, 1.0)).T


def neighbour_plane(points: Tensor, *, perplexity: float = 20.0, iterations: int = ITERATIONS) -> Tensor:
    """t-SNE (van der Maaten & Hinton 2008): (N, D) -> (N, 2) float64, without chance: begun from the principal plane.

    Distances far apart mean little in it; who is whose neighbour means much.

    Args:
        points: at least 3.
        perplexity: about how many neighbours count; cut to a third of the points.
        iterations: of gradient descent.
    """
    count = len(points)
    if count < 3:
        return principal_plane(points)
    distances = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2
    near = _affinities(distances, min(perplexity, max(1.0, (count - 1) / 3.0)))
    near = ((near + near.T) / (2.0 * count)).clamp_min(1e-12)
    place = principal_plane(points)
    place = place / place.std().clamp_min(1e-12) * 1e-4
    speed, gain = torch.zeros_like(place), torch.ones_like(place)
    rate = max(50.0, count / _EXAGGERATION / 4.0)
    for step in range(iterations):
        early = step < _EXAGGERATED
        kernel = 1.0 / (1.0 + torch.cdist(place, place) ** 2)
        kernel.fill_diagonal_(0.0)
        pull = ((_EXAGGERATION if early else 1.0) * near - kernel / kernel.sum()) * kernel
        gradient = 4.0 * (pull.sum(1, keepdim=True) * place - pull @ place)
        # Jacobs' gains, as in the reference implementation.
        gain = torch.where(gradient.sign() != speed.sign(), gain + 0.2, gain * 0.8).clamp_min(0.01)
        speed = (0.5 if early else 0.8) * speed - rate * gain * gradient
        place = place + speed
        place = place - place.mean(0)
    return place


def _affinities(distances: Tensor, perplexity: float) -> Tensor:
    """Rows of probabilities with the wanted perplexity, by bisection in the precision of each row."""
    low = torch.zeros(len(distances), 1, dtype=torch.float64)
    high = torch.full_like(low, float("inf"))
    scale = distances.mean(1, keepdim=True).clamp_min(1e-12)
    beta = 1.0 / scale
    found = torch.zeros_like(distances)
    hidden = torch.eye(len(distances), dtype=torch.bool)
    for _ in range(_SEARCH):
        found = (-beta * distances).masked_fill(hidden, -torch.inf).softmax(1)
        entropy = torch.special.entr(found).sum(1, keepdim=True)
        broad = entropy > np.log(perplexity)
        low, high = torch.where(broad, beta, low), torch.where(broad, high, beta)
        beta = torch.where(high.isinf(), 2.0 * beta, 0.5 * (low + high))
    return found


def unit_square(points: Tensor) -> Floats:
    """Points (N, 2) moved and scaled into [0, 1]^2, both directions alike."""
    low, high = points.amin(0), points.amax(0)
    span = float((high - low).max().clamp_min(1e-12))
    return ((points - (low + high) / 2.0) / span + 0.5).cpu().numpy().astype(np.float64)


@dataclass(frozen=True)
class EmbeddingMap:
    """Pictures in a plane.

    Args:
        places: (N, 2) in [0, 1]^2, y downwards.
        thumbnails: N pictures.
        captions: N texts.
        groups: N names, or empty; pictures of one name get one colour of frame.
        texts: (N, 2) places of the texts, or None.
    """

    places: Floats
    thumbnails: Sequence[Image.Image]
    captions: Sequence[str]
    groups: Sequence[str] = ()
    texts: Floats | None = None

    def __post_init__(self) -> None:
        counts = {len(self.places), len(self.thumbnails), len(self.captions), len(self.groups or self.captions)}
        if len(counts) != 1 or not len(self.places):
            raise ValueError(f"a map needs as many places as pictures, captions and groups, got {sorted(counts)}")

    @classmethod
    def of(
        cls,
        images: Tensor,
        texts: Tensor | None,
        thumbnails: Sequence[Image.Image],
        captions: Sequence[str],
        groups: Sequence[str] = (),
    ) -> EmbeddingMap:
        """The map of directions (N, D) of pictures and of their texts, laid out together by t-SNE."""
        together = images if texts is None else torch.cat([images, texts])
        plane = unit_square(neighbour_plane(together.cpu()))
        count = len(images)
        return cls(plane[:count], thumbnails, captions, groups, None if texts is None else plane[count:])

    def colours(self) -> list[str]:
        """A colour for each picture, by its group."""
        names = list(dict.fromkeys(self.groups))
        return [style.SERIES[names.index(g) % len(style.SERIES)] for g in self.groups] or [style.RULE] * len(
            self.captions
        )

    def picture(self, *, size: tuple[int, int] = (1500, 1100), thumbnail: int = 40, captions: int = 14) -> Image.Image:
        """The map as one picture, with a caption beside as many pictures as find room, `captions` at most."""
        sheet = style.canvas(*size)
        draw = ImageDraw.Draw(sheet)
        margin = 2 * style.MARGIN + thumbnail
        across, down = size[0] - 2 * margin, size[1] - 2 * margin
        middles = [(margin + x * across, margin + y * down) for x, y in self.places]
        for (x, y), image, colour in zip(middles, self.thumbnails, self.colours(), strict=True):
            left, top = round(x - thumbnail / 2), round(y - thumbnail / 2)
            draw.rectangle((left - 2, top - 2, left + thumbnail + 1, top + thumbnail + 1), fill=colour)
            sheet.paste(image.convert("RGB").resize((thumbnail, thumbnail), _filter(image, thumbnail)), (left, top))
        taken: list[tuple[float, float, float, float]] = []
        for index in _spread(self.places):
            if len(taken) >= captions:
                break
            box = self._caption_box(middles[index], self.captions[index], size, thumbnail)
            if any(a[0] < box[2] and box[0] < a[2] and a[1] < box[3] and box[1] < a[3] for a in taken):
                continue
            taken.append(box)
            draw.rounded_rectangle(box, 5, fill=style.PAPER, outline=style.RULE)
            text = style.shorten(self.captions[index], _LETTERS, int(box[2] - box[0]) - 12)
            style.draw_text(draw, (box[0] + 6, (box[1] + box[3]) / 2), text, _LETTERS, anchor="lm")
        return sheet

    @staticmethod
    def _caption_box(
        middle: tuple[float, float], caption: str, size: tuple[int, int], thumbnail: int
    ) -> tuple[float, float, float, float]:
        width = min(_WIDEST, style.text_width(caption, _LETTERS) + 14)
        x = min(max(4.0, middle[0] - width / 2), size[0] - width - 4.0)
        top = middle[1] + thumbnail / 2 + 4
        return x, top, x + width, top + 1.7 * _LETTERS


_LETTERS, _WIDEST = 13, 460


def _filter(image: Image.Image, side: int) -> Image.Resampling:
    return Image.Resampling.NEAREST if image.width < side else Image.Resampling.LANCZOS


def _spread(places: Floats) -> list[int]:
    """Indices in an order in which each next place is far from all before it."""
    chosen = [int(np.argmin(((places - places.mean(0)) ** 2).sum(1)))]
    nearest = ((places - places[chosen[0]]) ** 2).sum(1)
    while len(chosen) < len(places):
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, ((places - places[chosen[-1]]) ** 2).sum(1))
        nearest[chosen] = -1.0
    return chosen


def sprite(thumbnails: Sequence[Image.Image], side: int) -> tuple[Image.Image, int]:
    """All thumbnails in one picture, `columns` in a row."""
    columns = max(1, int(np.ceil(np.sqrt(len(thumbnails)))))
    rows = -(-len(thumbnails) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side))
    for index, image in enumerate(thumbnails):
        small = image.convert("RGB").resize((side, side), _filter(image, side))
        sheet.paste(small, (index % columns * side, index // columns * side))
    return sheet, columns
