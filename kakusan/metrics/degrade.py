"""Real pictures with the samples' fault: what is still different from these is another fault."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spectrum import Bands, Colours, batches, blur_radius, powers

CERTAIN = 3.0
"""Standard errors beyond which a band of the spectrum is taken at its word."""
PIXELS = 2048
ANGLES = 24


@dataclass(frozen=True)
class Degradation:
    """A filter that takes detail away, and noise that is added, both by spatial frequency.

    Args:
        bands: the rings.
        transfer: (C, bands) amplitude that is left, at most 1.
        noise: (C, bands) power spectral density that is added.
    """

    bands: Bands
    transfer: Tensor
    noise: Tensor

    @classmethod
    def between(
        cls, samples: PictureSet, real: PictureSet, bands: Bands, *, weights: Tensor | None, blur: bool, noise: bool
    ) -> Degradation:
        """What brings the spectrum of the real pictures to that of the samples.

        Args:
            samples: faulty pictures.
            real: pictures without the fault.
            bands: the rings.
            weights: (len(real),) of the real pictures; all equal when not given.
            blur: whether the filter is wanted.
            noise: whether the noise is wanted.
        """
        mine, mine_error = _mean_power(samples, bands, None)
        theirs, their_error = _mean_power(real, bands, weights)
        spread = ((mine_error / mine).square() + (their_error / theirs).square()).sqrt()
        contrast = _contrast(mine / theirs, spread, bands, blur=blur)
        ratio = mine / contrast / theirs
        transfer, added = torch.ones_like(ratio), torch.zeros_like(ratio)
        if blur:
            # A Gaussian, not the curve as it was measured: its kernel would ring far into flat grounds.
            radii = [blur_radius(bands.frequencies, row.clamp(max=1.0).sqrt().tolist()) for row in ratio]
            f2 = torch.tensor(bands.frequencies, dtype=torch.float64).square()
            transfer = torch.stack([(-2.0 * (torch.pi * radius) ** 2 * f2).exp() for radius in radii])
        if noise:
            excess, error = mine - contrast * theirs, spread * mine
            # Coarse rings know little of a little noise; white noise stands in where they do not refute it.
            weight = error.clamp_min(1e-15).square().reciprocal()
            white = (weight * excess).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
            refuted = (excess - white).abs() > CERTAIN * error
            added = torch.where(refuted, excess, white).clamp_min(0.0)
        return cls(bands, transfer, added)

    def scaled(self, times: float) -> Degradation:
        """A fault so many times as strong."""
        return Degradation(self.bands, self.transfer**times, self.noise * times)

    @property
    def radius(self) -> float:
        """The blur in pixels, as the standard deviation of a Gaussian."""
        return blur_radius(self.bands.frequencies, self.transfer.mean(0).tolist())

    @property
    def noise_level(self) -> float:
        """Standard deviation of the noise in [-1, 1] units, mean over the channels' variances."""
        index = self.bands.index.flatten()
        sizes = torch.bincount(index[index >= 0], minlength=len(self.bands)).double()
        return float(((self.noise * sizes).sum(1) / sizes.sum()).mean().sqrt())

    def __call__(self, pictures: PictureSet, *, seed: int = 0) -> PictureSet:
        """The pictures with the fault, stored again as integers."""
        if len(pictures) == 0:
            return pictures
        generator = torch.Generator().manual_seed(seed)
        found = [pictures.spec.to_stored(self._apply(x.double(), generator)) for x in batches(pictures)]
        return PictureSet(torch.cat(found), pictures.spec, pictures.labels, pictures.origin)

    def _apply(self, x: Tensor, generator: torch.Generator) -> Tensor:
        dims = tuple(range(2, x.dim()))
        if bool((self.transfer < 1.0).any()):
            # Mirrored at its edges a picture has no jump there for the filter to ring at.
            wide = x
            for dim in dims:
                wide = torch.cat([wide, wide.flip(dim)], dim)
            gain = self._spread(self.transfer, wide.shape[2:], mean=1.0)
            wide = torch.fft.ifftn(torch.fft.fftn(wide, dim=dims) * gain, dim=dims).real
            x = wide[(..., *(slice(0, length) for length in x.shape[2:]))]
        if bool((self.noise > 0.0).any()):
            white = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            gain = self._spread(self.noise.sqrt(), x.shape[2:], mean=0.0)
            x = x + torch.fft.ifftn(torch.fft.fftn(white, dim=dims) * gain, dim=dims).real
        return x

    def _spread(self, values: Tensor, size: torch.Size, *, mean: float) -> Tensor:
        """(C, *size): values by ring at the frequencies of any size, in straight lines; `mean` at frequency zero."""
        axes = [torch.fft.fftfreq(length, dtype=torch.float64) for length in size]
        radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
        middles = torch.tensor(self.bands.frequencies, dtype=torch.float64)
        right = torch.searchsorted(middles, radius.contiguous()).clamp(1, len(middles) - 1)
        share = ((radius - middles[right - 1]) / (middles[right] - middles[right - 1])).clamp(0.0, 1.0)
        found = values[:, right - 1] * (1.0 - share) + values[:, right] * share
        return torch.where(radius == 0, torch.full_like(found, mean), found)


def _contrast(ratio: Tensor, spread: Tensor, bands: Bands, *, blur: bool) -> Tensor:
    """(C, 1) what the ratio of powers (C, bands) tends to for coarse detail: that is colour, not blur.

    The transfer of any blur that looks alike in all directions begins as a parabola (its logarithm, in the frequency).
    """
    f2 = torch.tensor(bands.frequencies, dtype=torch.float64).square()
    coarse = max(2, int((f2 <= 0.25**2).sum()))
    if not blur:
        return ratio[:, :1]
    weight = spread[:, :coarse].clamp_min(1e-6).square().reciprocal()
    weight = weight / weight.sum(1, keepdim=True)
    x, y = f2[:coarse], ratio[:, :coarse].log()
    mean_x, mean_y = ((weight * value).sum(1, keepdim=True) for value in (x, y))
    slope = (weight * (x - mean_x) * (y - mean_y)).sum(1, keepdim=True) / (weight * (x - mean_x).square()).sum(
        1, keepdim=True
    )
    return (mean_y - slope.clamp(max=0.0) * mean_x).exp()


def _mean_power(pictures: PictureSet, bands: Bands, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """(C, bands) weighted mean over the pictures, and its standard error."""
    each = torch.cat([powers(x, bands) for x in batches(pictures)])
    weights = torch.ones(len(each)).double() if weights is None else weights
    shares = (weights / weights.sum())[:, None, None]
    mean = (shares * each).sum(0)
    error = (shares.square() * (each - mean).square()).sum(0).sqrt()
    return mean.clamp_min(1e-12), error


def recoloured(samples: PictureSet, real: PictureSet, *, most: int = 4) -> list[PictureSet]:
    """The samples with the real pictures' mean colour and covariance of channels, in the likeliest ways.

    A covariance leaves open how hues are turned and which way up they run, so the map is the smallest one that fits
    (the linear Monge map) after each of many turns about the gray axis; kept are the turns whose colours are nearest to
    the real ones (sliced Wasserstein distance), and the one without any.
    """
    mine, theirs = _some_pixels(samples), _some_pixels(real)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(theirs.shape[1], 24, generator=generator, dtype=torch.float64)
    wanted = (theirs @ directions).sort(dim=0).values
    moments = Colours.of(samples), Colours.of(real)
    maps = [_monge(turn, *moments) for turn in _turns(samples.spec.channels)]
    far = []
    for a, shift in maps:
        moved = ((mine @ a.T + shift).clamp(-1.0, 1.0) @ directions).sort(dim=0).values
        far.append(float((moved - wanted).square().mean()))
    order = sorted(range(len(maps)), key=lambda i: far[i])[:most]
    return [_mapped(samples, *maps[i]) for i in dict.fromkeys([*order, 0])]


def _turns(channels: int) -> list[Tensor]:
    """Orthogonal maps of the first three channels, the identity first: about the gray axis, mirrored, and negative."""
    whole = torch.eye(channels, dtype=torch.float64)
    if channels < 3:
        orders = [whole, whole.flip(0)] if channels == 2 else [whole]
        return [sign * order for order in orders for sign in (1.0, -1.0)]
    axis = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], dtype=torch.float64) / 3**0.5
    exchange = torch.eye(3, dtype=torch.float64).flip(0)
    found = []
    for sign in (1.0, -1.0):
        for mirror in (torch.eye(3, dtype=torch.float64), exchange):
            for step in range(ANGLES):
                angle = torch.tensor(2.0 * torch.pi * step / ANGLES, dtype=torch.float64)
                turn = whole.clone()
                turn[:3, :3] = sign * torch.linalg.matrix_exp(angle * axis) @ mirror
                found.append(turn)
    return found


def _some_pixels(pictures: PictureSet) -> Tensor:
    """(PIXELS, C) spread evenly over the set; repeated where there are fewer."""
    pixels = torch.cat(
        [x.double().transpose(0, 1).flatten(1).T[:: max(1, len(pictures) // 64)] for x in batches(pictures)]
    )
    return pixels[torch.linspace(0, len(pixels) - 1, PIXELS).long()]


def _monge(turn: Tensor, mine: Colours, real: Colours) -> tuple[Tensor, Tensor]:
    """(a, shift): x -> a x + shift takes colours of the first moments to the second, after a turn (Pitie 2007)."""
    covariance = turn @ mine.covariance @ turn.T
    covariance = covariance + 1e-9 * torch.eye(len(turn), dtype=torch.float64)
    root, inverse = _roots(covariance)
    bridge = root @ real.covariance @ root
    a = inverse @ _roots((bridge + bridge.T) / 2)[0] @ inverse @ turn
    return a, real.mean - a @ mine.mean


def _mapped(samples: PictureSet, a: Tensor, shift: Tensor) -> PictureSet:
    parts = []
    for x in batches(samples):
        moved = torch.einsum("dc,bc...->bd...", a, x.double()) + shift.view(1, -1, *[1] * (x.dim() - 2))
        parts.append(samples.spec.to_stored(moved))
    return PictureSet(torch.cat(parts), samples.spec, samples.labels, samples.origin)


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    root = values.clamp_min(1e-12).sqrt()
    return vectors * root @ vectors.T, vectors / root @ vectors.T
