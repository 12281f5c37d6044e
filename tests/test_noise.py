"""Noise that belongs to the sample: published vectors, independence of the batch, and the right distribution."""

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.noise import StepNoise, Stream, as_seeds, normal, philox, uniform

ONES = 0xFFFFFFFF
# The known answers of philox4x32-10 that Random123 is distributed with (counter, key, result).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
seeds_strategy = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5, unique=True)


@pytest.mark.parametrize("counter,key,result", KNOWN)
def test_published_vectors(counter, key, result):
    words = philox(tuple(torch.tensor(c) for c in counter), tuple(torch.tensor(k) for k in key))
    assert tuple(int(word) for word in words) == result


def test_published_vectors_all_at_once():
    counters, keys, results = zip(*KNOWN, strict=True)
    words = philox(tuple(torch.tensor(counters).T), tuple(torch.tensor(keys).T))
    assert torch.equal(torch.stack(words, 1), torch.tensor(results))


@given(seeds_strategy, st.integers(0, 2**40), st.sampled_from([(1,), (3, 5), (2, 3, 7)]))
def test_a_sample_gets_the_same_noise_in_any_batch(seeds, draw, shape):
    together = normal(seeds, Stream.STEP, draw, shape=shape)
    assert together.shape == (len(seeds), *shape)
    for i, seed in enumerate(seeds):
        assert torch.equal(normal([seed], Stream.STEP, draw, shape=shape)[0], together[i])
    assert torch.equal(normal(seeds[::-1], Stream.STEP, draw, shape=shape), together.flip(0))


def test_large_draws_are_made_in_blocks_that_do_not_show():
    whole = normal([1, 2, 3], Stream.START, shape=(70_000,))
    assert torch.equal(whole[:, :50], normal([1, 2, 3], Stream.START, shape=(50,)))
    many = normal(range(20_000), Stream.START, shape=(5,))
    assert torch.equal(many[[0, 16_500, 19_999]], normal([0, 16_500, 19_999], Stream.START, shape=(5,)))


def test_each_sample_may_have_its_own_draw_number():
    draws = torch.tensor([4, 9, 2**35])
    together = uniform([7, 7, 7], Stream.TIME, draws, shape=(6,))
    for i, draw in enumerate(draws.tolist()):
        assert torch.equal(uniform([7], Stream.TIME, draw, shape=(6,))[0], together[i])


@pytest.mark.parametrize(
    "seed,other", [(0, 2**32), (5, 5 + 2**32), (1, 1 - 2**63), (-1, 2**32 - 1), (-1, 1), (2**62, 2**61)]
)
def test_all_64_bits_of_a_seed_count(seed, other):
    first, second = (normal([s], Stream.START, shape=(64,)) for s in (seed, other))
    assert int((first == second).sum()) == 0


def test_streams_and_draws_differ():
    drawn = [normal([3], stream, draw, shape=(50,)) for stream in Stream for draw in (0, 1, 2**32, 2**33)]
    values = torch.cat(drawn).flatten()
    assert len(values.unique()) == len(values)
    together = torch.cat(drawn)
    correlation = torch.corrcoef(together) - torch.eye(len(together))
    assert float(correlation.abs().max()) < 0.75  # 36 streams, 630 pairs of 50 draws: chance about 1e-8


@pytest.mark.parametrize("seed", [0, 1, 12345678901234567, -5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_is_normal(seed, dtype):
    # Fixed seeds; for a fresh seed each of these would fail with a chance below 1e-6.
    x = normal([seed], Stream.START, shape=(40_000,), dtype=dtype)[0]
    assert x.dtype == dtype
    assert scipy.stats.kstest(x.numpy(), "norm").pvalue > 1e-6
    n = len(x) ** 0.5
    assert abs(float(x.mean())) < 5.0 / n
    assert abs(float(x.double().square().mean()) - 1.0) < 5.0 * 2.0**0.5 / n
    assert abs(float((x.double() ** 3).mean())) < 5.0 * 15.0**0.5 / n
    assert abs(float((x.double() ** 4).mean()) - 3.0) < 5.0 * 96.0**0.5 / n
    for lag in (1, 2, 3, 4):  # the four words of a counter are independent
        assert abs(float((x[lag:] * x[:-lag]).mean())) < 5.0 / n


def test_neighbouring_seeds_are_independent():
    x = normal(range(-200, 200), Stream.START, shape=(400,), dtype=torch.float64)
    assert scipy.stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-6
    assert scipy.stats.kstest(x[:, 0].numpy(), "norm").pvalue > 1e-6
    assert abs(float((x[1:] * x[:-1]).mean())) < 5.0 / (399 * 400) ** 0.5


@given(seeds_strategy, st.integers(0, 40))
def test_uniforms_lie_strictly_inside(seeds, size):
    u = uniform(seeds, Stream.TIME, shape=(size,))
    assert u.shape == (len(seeds), size)
    assert u.dtype == torch.float64
    assert bool(((u > 0.0) & (u < 1.0)).all())


def test_uniform_is_uniform():
    u = uniform([9], Stream.TIME, shape=(40_000,))[0]
    assert scipy.stats.kstest(u.numpy(), "uniform").pvalue > 1e-6
    assert uniform([9, 8], Stream.TIME).shape == (2,)


def test_half_precision_is_the_single_precision_draw_rounded():
    wide, narrow = (normal([4], Stream.START, shape=(100,), dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(wide.bfloat16(), narrow)


def test_double_and_single_precision_are_the_same_draw():
    wide, narrow = (normal([4], Stream.START, shape=(1000,), dtype=dtype) for dtype in (torch.float64, torch.float32))
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-5)


def test_step_noise_numbers_its_draws_by_step():
    like = torch.zeros(2, 3, 4, dtype=torch.float64)
    seeds = as_seeds([1, 2])
    drawn = [StepNoise(seeds, index, like)(draw) for index in (0, 1) for draw in (0, 1, 15)]
    assert drawn[0].shape == like.shape
    assert drawn[0].dtype == like.dtype
    values = torch.stack(drawn).flatten()
    assert len(values.unique()) == len(values)
    assert torch.equal(StepNoise(seeds, 1, like)(1), drawn[4])


@pytest.mark.parametrize("bad", [torch.tensor([[1]]), torch.tensor([1.0]), [2**63], [-(2**63) - 1]])
def test_what_is_no_seed_is_refused(bad):
    with pytest.raises(ValueError, match=r"seed"):
        as_seeds(bad)


@pytest.mark.gpu
def test_the_bits_are_the_same_on_an_accelerator():
    here, there = (uniform([1, 2], Stream.TIME, shape=(1000,), device=device) for device in ("cpu", "cuda"))
    assert torch.equal(here, there.cpu())
