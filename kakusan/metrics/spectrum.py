"""How much detail of each size: power by spatial frequency, of samples beside real pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.data.spec import DataSpec
from kakusan.metrics.record import MetricRecord
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.significance import compare_means

if TYPE_CHECKING:
    from kakusan.metrics.evaluation import Evaluation

MOST_BANDS = 8
AT_ONCE, MOST_NUMBERS = 256, 1 << 22


@dataclass(frozen=True)
class Bands:
    """Rings of spatial frequency for pictures of one size.

    Args:
        index: (*size) ring of each entry of the Fourier transform, -1 for the mean.
        frequencies: of the middle of each ring, in cycles per pixel.
        edges: (low, high] of each ring; the last one has all that is higher too.
    """

    index: Tensor
    frequencies: tuple[float, ...]
    edges: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, size: Sequence[int], most: int = MOST_BANDS) -> Bands:
        """At most `most` rings of equal width up to half a cycle per pixel.

        Raises:
            ValueError: pictures too small for two rings.
        """
        axes = [torch.fft.fftfreq(length, dtype=torch.float64) for length in size]
        radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
        count = min(most, max(size) // 2)
        index = (radius * 2 * count - 1e-9).floor().clamp(0, max(0, count - 1)).long()
        index[radius == 0] = -1
        present = [band for band in range(count) if bool((index == band).any())]
        if len(present) < 2:
            raise ValueError(f"pictures of {' x '.join(map(str, size))} are too small for a spectrum")
        renumbered = torch.full_like(index, -1)
        for new, old in enumerate(present):
            renumbered[index == old] = new
        middle = tuple(float(radius[renumbered == band].mean()) for band in range(len(present)))
        edges = tuple((band / (2 * count), (band + 1) / (2 * count)) for band in present)
        return cls(renumbered, middle, edges)

    def __len__(self) -> int:
        return len(self.frequencies)

    def name(self, band: int) -> str:
        """For records."""
        low, high = self.edges[band]
        return f"{low:.3g} to {high:.3g} cycles per pixel"

    def means(self, power: Tensor) -> Tensor:
        """(..., *size) -> (..., bands): the mean over each ring."""
        flat, index = power.flatten(-self.index.dim()), self.index.flatten()
        kept = index >= 0
        sums = torch.zeros(*flat.shape[:-1], len(self), dtype=flat.dtype).index_add_(-1, index[kept], flat[..., kept])
        return sums / torch.bincount(index[kept], minlength=len(self)).to(flat.dtype)


@dataclass(frozen=True)
class Colours:
    """Mean (C,) and covariance (C, C) of a set's pixels, float64, in [-1, 1] units."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, pictures: PictureSet) -> Colours:
        """Over all pixels of all pictures."""
        channels = pictures.spec.channels
        total, products, count = torch.zeros(channels).double(), torch.zeros(channels, channels).double(), 0
        for x in batches(pictures):
            pixels = x.double().transpose(0, 1).flatten(1)
            total, products, count = total + pixels.sum(1), products + pixels @ pixels.T, count + pixels.shape[1]
        mean = total / count
        return cls(mean, products / count - mean[:, None] * mean)

    def whitening(self, quantum: float) -> Tensor:
        """(C, C) that brings the covariance to the identity; directions finer than the quantiser are not blown up."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors / values.clamp_min(max(1e-4 * float(values.max()), quantum)).sqrt() @ vectors.T


def batches(pictures: PictureSet) -> Iterator[Tensor]:
    """All pictures in model units, some at a time."""
    several = max(1, min(AT_ONCE, MOST_NUMBERS // math.prod(pictures.spec.shape)))
    for start in range(0, len(pictures), several):
        yield pictures.x(slice(start, start + several))


def block_means(x: Tensor, blocks: int) -> Tensor:
    """Means of (B, C, *size) over at most `blocks` equal parts of each side: (B, C, blocks, ...)."""
    for dim in range(2, x.dim()):
        if x.shape[dim] <= blocks:
            continue
        parts = x.tensor_split(blocks, dim)
        x = torch.cat([part.mean(dim, keepdim=True) for part in parts], dim)
    return x


def quantum(spec: DataSpec) -> float:
    """Variance of rounding to stored integers, in [-1, 1] units."""
    return (2.0 / (spec.high - spec.low)) ** 2 / 12.0


def powers(x: Tensor, bands: Bands) -> Tensor:
    """Power spectral density (B, C, bands) of pictures (B, C, *size): white noise of variance v has v in every band.

    All but the coarsest, which loses what goes with the mean. A window that falls to the edges keeps the jump between
    opposite edges, which is no detail, out of the fine bands.
    """
    window = torch.ones((), dtype=torch.float64)
    for length in x.shape[2:]:
        axis = torch.hann_window(length + 2, periodic=False, dtype=torch.float64)[1:-1]
        window = window[..., None] * axis
    x = x.double()
    dims = tuple(range(2, x.dim()))
    mean = (x * window).sum(dims, keepdim=True) / window.sum()
    found = torch.fft.fftn((x - mean) * window, dim=dims).abs().square() / window.square().sum()
    return bands.means(found)


def log_powers(pictures: PictureSet, bands: Bands) -> Tensor:
    """(N, bands) float64: log power of each picture, its colours brought to variance one over the whole set.

    So any brightness, contrast or mixture of channels that all pictures of a set share leaves it as it is.
    """
    q = quantum(pictures.spec)
    whiten = Colours.of(pictures).whitening(q)
    floor = q * float((whiten @ whiten.T).trace())
    found = []
    for x in batches(pictures):
        white = torch.einsum("dc,bc...->bd...", whiten, x.double())
        found.append((powers(white, bands).sum(1) + floor).log())
    return torch.cat(found)


def fineness(log_power: Tensor) -> Tensor:
    """(N, upper bands): log power of each band of the finer half over that of the coarser half together."""
    half = (log_power.shape[1] + 1) // 2
    return log_power[:, half:] - log_power[:, :half].logsumexp(1, keepdim=True)


@dataclass(frozen=True)
class SpectrumCurve:
    """For a figure: natural logarithms of power by frequency.

    Args:
        frequencies: in cycles per pixel.
        samples: mean log power.
        real: mean log power of real pictures.
        spread: standard deviation over single real pictures.
    """

    frequencies: tuple[float, ...]
    samples: tuple[float, ...]
    real: tuple[float, ...]
    spread: tuple[float, ...]


def spectrum_curve(evaluation: Evaluation, samples: PictureSet, *, bands: int = 32) -> SpectrumCurve | None:
    """Power by frequency, finely; None for pictures too small to have any."""
    rings = bands_of(samples.spec, bands)
    if rings is None:
        return None
    mine, real = log_powers(samples, rings), log_powers(evaluation.reference.pool, rings)
    return SpectrumCurve(
        rings.frequencies, tuple(mine.mean(0).tolist()), tuple(real.mean(0).tolist()), tuple(real.std(0).tolist())
    )


def bands_of(spec: DataSpec, most: int = MOST_BANDS) -> Bands | None:
    """Rings for these pictures; None where they are too small."""
    try:
        return Bands.of(spec.size, most)
    except ValueError:
        return None


def spectrum_records(evaluation: Evaluation, samples: PictureSet) -> list[MetricRecord]:
    """Mean log power in each band, beside that of real pictures; none for pictures too small."""
    rings = bands_of(samples.spec)
    if rings is None:
        return []
    shift = compare_means(log_powers(samples, rings), log_powers(evaluation.reference.pool, rings))
    of = evaluation.provenance(samples, units="nats, whitened colours", window="Hann")
    return [
        MetricRecord(
            name=f"log power, {rings.name(band)}",
            value=float(shift.value[band]),
            stderr=float(shift.stderr[band]),
            n=len(samples),
            of=of,
            null=float(shift.null[band]),
            null_stderr=float(shift.null_stderr[band]),
            better="null",
        )
        for band in range(len(rings))
    ]


def blur_radius(frequencies: Sequence[float], transfer: Sequence[float]) -> float:
    """Standard deviation in pixels of the Gaussian blur whose transfer exp(-2 pi^2 s^2 f^2) is nearest to this one.

    Nearest in the amplitude itself: what is left of the finest detail is too little to decide.
    """
    f2 = torch.tensor(frequencies, dtype=torch.float64).square()
    radii = torch.cat([torch.zeros(1), torch.logspace(-2, 1, 601)]).double()
    curves = (-2.0 * math.pi**2 * radii[:, None].square() * f2).exp()
    error = (curves - torch.tensor(transfer, dtype=torch.float64)).square().sum(1)
    return float(radii[error.argmin()])
