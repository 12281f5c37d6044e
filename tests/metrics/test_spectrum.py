import math
from dataclasses import replace

import pytest
import torch
from fault_scenes import evaluation, samples
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.spec import DataSpec
from kakusan.metrics.degrade import Degradation
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spectrum import (
    Bands,
    bands_of,
    blur_radius,
    log_powers,
    powers,
    spectrum_curve,
    spectrum_records,
)


def sixteen_bits(x: torch.Tensor) -> PictureSet:
    stored = ((x + 1.0) * 32767.5).round().to(torch.int32).to(torch.uint16)
    return PictureSet(stored, DataSpec.measure(stored))


def test_white_noise_has_its_variance_in_every_band() -> None:
    noise = 0.3 * torch.randn(200, 2, 24, 16, generator=torch.Generator().manual_seed(0))
    # The coarsest ring loses what goes with the mean.
    found = powers(noise, Bands.of((24, 16))).mean(0)[:, 1:]
    assert torch.allclose(found, torch.full_like(found, 0.09), rtol=0.06)


def test_a_wave_lies_in_the_band_of_its_frequency() -> None:
    bands = Bands.of((32, 32))
    for cycles in (3, 7, 13):
        wave = torch.cos(2 * math.pi * cycles * torch.arange(32) / 32).expand(1, 1, 32, 32)
        found = powers(wave, bands)[0, 0]
        low, high = bands.edges[int(found.argmax())]
        assert low < cycles / 32 <= high


def test_a_mixture_of_channels_shared_by_all_pictures_is_not_seen() -> None:
    generator = torch.Generator().manual_seed(1)
    x = 0.2 * torch.randn(40, 3, 12, 12, generator=generator).cumsum(-1) * 0.3
    mix = torch.tensor([[0.5, 0.3, 0.0], [-0.4, 0.6, 0.1], [0.0, 0.2, 0.7]])
    y = torch.einsum("dc,bchw->bdhw", mix, x) + 0.1
    assert float(torch.maximum(x.abs().max(), y.abs().max())) < 1.0
    bands = Bands.of((12, 12))
    assert torch.allclose(log_powers(sixteen_bits(x), bands), log_powers(sixteen_bits(y), bands), atol=0.01)


def test_the_radius_of_an_exact_blur_comes_back() -> None:
    frequencies = Bands.of((32, 32)).frequencies
    transfer = [math.exp(-2 * (math.pi * 0.7 * f) ** 2) for f in frequencies]
    assert blur_radius(frequencies, transfer) == pytest.approx(0.7, rel=0.01)
    assert blur_radius(frequencies, [1.0] * len(frequencies)) == 0.0


def test_noise_and_blur_are_measured_and_given_to_real_pictures() -> None:
    world = evaluation()
    pool = world.reference.pool
    perfect = samples(0, 128, pool.spec)
    bands = bands_of(pool.spec, 16)
    assert bands is not None
    generator = torch.Generator().manual_seed(2)
    noisy = replace(
        perfect, stored=pool.spec.to_stored(perfect.x() + 0.1 * torch.randn(perfect.x().shape, generator=generator))
    )
    fault = Degradation.between(noisy, pool, bands, weights=None, blur=False, noise=True)
    assert fault.noise_level == pytest.approx(0.1, rel=0.15)
    known = Degradation(
        bands,
        torch.exp(-2 * (math.pi * 0.6 * torch.tensor(bands.frequencies)) ** 2).expand(3, -1).double(),
        torch.zeros(3, len(bands)).double(),
    )
    found = Degradation.between(known(perfect), pool, bands, weights=None, blur=True, noise=False)
    assert found.radius == pytest.approx(0.6, rel=0.15)
    # With the fault the real pictures have the samples' spectrum.
    pairs = [(known(pool), known(perfect)), (fault(pool), noisy)]
    for real, faulty in pairs:
        gap = log_powers(real, bands).mean(0) - log_powers(faulty, bands).mean(0)
        assert float(gap.abs().max()) < 0.2


def test_less_contrast_is_neither_noise_nor_blur() -> None:
    pool = evaluation().reference.pool
    bands = bands_of(pool.spec, 16)
    assert bands is not None
    flat = replace(pool, stored=pool.spec.to_stored(0.5 * pool.x()))
    fault = Degradation.between(flat, pool, bands, weights=None, blur=True, noise=True)
    assert fault.radius < 0.05
    assert fault.noise_level < 0.02
    strong = replace(pool, stored=pool.spec.to_stored(1.2 * pool.x()))
    assert Degradation.between(strong, pool, bands, weights=None, blur=True, noise=True).noise_level < 0.02


def test_records_of_real_pictures_are_about_their_null() -> None:
    world = evaluation()
    perfect = samples(1, 128, world.reference.pool.spec)
    records = spectrum_records(world, perfect)
    assert len(records) == len(Bands.of((16, 16)))
    assert all(record.z is not None and abs(record.z) < 4.0 for record in records)
    curve = spectrum_curve(world, perfect)
    assert curve is not None
    assert len(curve.frequencies) == len(curve.samples) == len(curve.real) == len(curve.spread)
    noise = 0.2 * torch.randn(perfect.x().shape, generator=torch.Generator().manual_seed(3))
    noisy = spectrum_curve(world, replace(perfect, stored=perfect.spec.to_stored(perfect.x() + noise)))
    assert noisy is not None
    assert noisy.samples[-1] > noisy.real[-1] + 1.0
    assert noisy.real == curve.real


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(2, 8))
def test_every_frequency_of_any_size_lies_in_one_ring(size: list[int], most: int) -> None:
    try:
        bands = Bands.of(size, most)
    except ValueError:
        assert max(size) < 4
        return
    assert int((bands.index == -1).sum()) == 1
    counts = torch.bincount(bands.index[bands.index >= 0], minlength=len(bands))
    assert int(counts.min()) > 0
    assert 2 <= len(bands) <= most
