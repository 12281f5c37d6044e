"""The codec: bit for bit, at the bound, and nothing but its own files."""

import math
import struct
import zlib

import numpy as np
import pytest
import torch
from codec_models import draw, network, oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan import codec
from kakusan.codec import container
from kakusan.schedules import Karras, NoiseSchedule, Rectified, VariancePreserving

SKEWED = (0.55, 0.2, 0.1, 0.05, 0.1)


@settings(max_examples=12)
@given(
    count=st.integers(1, 9),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    levels=st.integers(2, 256),
    steps=st.integers(1, 9),
    bins=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_picture_comes_back(
    count: int, shape: tuple[int, ...], levels: int, steps: int, bins: int, seed: int
) -> None:
    low = seed % (257 - levels)
    weights = [1.0 / levels] * levels
    model, x = oracle(weights, shape, low=low), draw(count, shape, weights, low=low, seed=seed)
    file = codec.compress(model, x, steps=steps, bins=bins, batch=4)
    assert torch.equal(codec.decompress(model, file), x)


@pytest.mark.parametrize("schedule", [VariancePreserving(), Karras(), Rectified()])
def test_any_schedule_will_do(schedule: NoiseSchedule) -> None:
    model, x = oracle(SKEWED, (1, 4, 4), schedule=schedule), draw(20, (1, 4, 4), SKEWED)
    assert torch.equal(codec.decompress(model, codec.compress(model, x, steps=12)), x)


def test_a_network_that_knows_nothing_still_loses_nothing() -> None:
    model = network(high=255)
    x = torch.randint(0, 256, (11, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    file = codec.compress(model, x, steps=5, batch=4)
    assert codec.summary(model, file).plain < len(x)
    assert torch.equal(codec.decompress(model, file), x)


def test_labels_come_back_and_matter() -> None:
    model = network(classes=("a", "b", "c"))
    x = torch.randint(0, 17, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 3
    file = codec.compress(model, x, labels, steps=4, batch=4)
    found = codec.decode(model, file)
    assert torch.equal(found.pictures, x)
    assert found.labels is not None
    assert torch.equal(found.labels, labels)
    without = codec.decode(model, codec.compress(model, x, steps=4, batch=4))
    assert torch.equal(without.pictures, x)
    assert without.labels is None


def test_the_rate_is_the_bound_and_the_bound_the_entropy() -> None:
    # 6000 values at 24 steps. The coder walks one random path: the logarithm of its ratio q / p has a variance of twice
    # its mean per value and of one nat^2 at most for the two open ends, so the rate's standard error is below
    # sqrt((2 * 1.5 + 1) / 6000) nats = 0.037 bits.
    shape, count = (1, 5, 4), 300
    model, x = oracle(SKEWED, shape), draw(count, shape, SKEWED)
    file = codec.compress(model, x, steps=24, batch=128)
    assert torch.equal(codec.decompress(model, file), x)
    found = codec.summary(model, file)
    bound = codec.bound(model, file, x).total / (20 * math.log(2.0))
    entropy = -sum(p * math.log2(p) for p in SKEWED)
    error = float(bound.std()) / math.sqrt(count)
    assert entropy - 3.0 * error < float(bound.mean()) < 1.12 * entropy
    assert abs(found.rate_without_start - float(bound.mean())) < 3.0 * 0.037
    assert found.rate < found.rate_without_start + 8.0 * 200 / (20 * count) + 3.0 * found.plain / count


def test_more_steps_come_nearer() -> None:
    shape = (1, 5, 4)
    model, x = oracle(SKEWED, shape), draw(200, shape, SKEWED)
    bounds = [
        float(codec.bound(model, codec.compress(model, x[:20], steps=steps), x).total.mean()) for steps in (3, 8, 24)
    ]
    assert bounds[0] > bounds[1] > bounds[2]


@pytest.fixture(scope="module")
def written() -> tuple[object, torch.Tensor, bytes]:
    generator = torch.Generator().manual_seed(2)
    model, x = network(), torch.randint(0, 17, (6, 1, 8, 8), dtype=torch.uint8, generator=generator)
    file = codec.compress(model, x, steps=3, batch=2)
    assert codec.summary(model, file).plain < len(x)
    return model, x, file


def test_damage_is_seen(written: tuple[object, torch.Tensor, bytes]) -> None:
    model, _, file = written
    for cut in (0, 3, 6, 20, len(file) // 2, len(file) - 1):
        with pytest.raises(codec.CorruptFile):
            codec.decompress(model, file[:cut])
    for place in range(0, len(file), 7):
        spoilt = bytearray(file)
        spoilt[place] ^= 0x10
        with pytest.raises(codec.CorruptFile):
            codec.decompress(model, bytes(spoilt))
    with pytest.raises(codec.CorruptFile):
        codec.decompress(model, file + b"more")


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n" + bytes(50), b"PK\x03\x04" + bytes(50), b"\x80\x04hello"])
def test_foreign_files_are_refused(written: tuple[object, torch.Tensor, bytes], data: bytes) -> None:
    with pytest.raises(codec.CorruptFile, match="not a file written by"):
        codec.decompress(written[0], data)


def test_a_later_format_is_named(written: tuple[object, torch.Tensor, bytes]) -> None:
    file = bytearray(written[2])
    file[4] = 9
    with pytest.raises(codec.CorruptFile, match="format 9"):
        codec.decompress(written[0], bytes(file))


@pytest.mark.parametrize(
    "change",
    [
        {"groups": "p9"},
        {"groups": "xx"},
        {"steps": 10**9},
        {"steps": True},
        {"grid": "AAAA"},
        {"grid": "!!"},
        {"spread": ""},
        {"count": 10**12},
        {"threads": 0},
        {"labels": True},
        {"model": 3},
        {"matmul": "os.system"},
    ],
)
def test_a_header_with_a_right_checksum_can_still_be_wrong(
    written: tuple[object, torch.Tensor, bytes], change: dict[str, object]
) -> None:
    header, words = container.unpack(written[2])
    with pytest.raises(codec.CorruptFile):
        codec.decompress(written[0], container.pack({**header, **change}, words))


def test_a_header_cannot_be_a_bomb() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY)
    small = packer.compress(b" " * (1 << 24)) + packer.flush()
    body = struct.pack("<4sBH", container.MAGIC, container.VERSION, len(small)) + small
    with pytest.raises(codec.CorruptFile):
        container.unpack(body + struct.pack("<I", zlib.crc32(body)))


def test_another_model_is_refused(written: tuple[object, torch.Tensor, bytes]) -> None:
    with pytest.raises(ValueError, match="another model"):
        codec.decompress(network(seed=4), written[2])


def test_other_words_are_never_taken_for_pictures(written: tuple[object, torch.Tensor, bytes]) -> None:
    model, _, file = written
    header, words = container.unpack(file)
    for place in (0, len(words) // 2):
        other = words.copy()
        other[place] ^= np.uint32(1 << 7)
        with pytest.raises(ValueError, match="are not those that were compressed"):
            codec.decompress(model, container.pack(header, other))


def test_other_circumstances_are_named(written: tuple[object, torch.Tensor, bytes]) -> None:
    model, x, file = written
    header, words = container.unpack(file)
    with pytest.warns(UserWarning, match="torch '1.0'"):
        found = codec.decompress(model, container.pack({**header, "torch": "1.0"}, words))
    assert torch.equal(found, x)


def test_blank_pictures_cost_nothing_but_the_header() -> None:
    # Plain coding of zeros leaves an empty stack, from which the model has nothing to borrow.
    model, x = network(), torch.zeros(9, 1, 8, 8, dtype=torch.uint8)
    file = codec.compress(model, x, steps=3, batch=2)
    assert torch.equal(codec.decompress(model, file), x)


def test_threads_are_set_as_they_were_and_set_back() -> None:
    model, x = network(), torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    torch.set_num_threads(2)
    try:
        file = codec.compress(model, x, steps=2)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(codec.decompress(model, file), x)
    assert torch.get_num_threads() == 1


def test_bad_input_is_refused() -> None:
    model = network(classes=("a", "b"))
    x = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    for pictures, labels, options, message in (
        (x.float(), None, {}, "uint8"),
        (x[:, :, :4], None, {}, "expected pictures"),
        (x + 17, None, {}, "leave the range"),
        (x[:0], None, {}, "no pictures"),
        (x, torch.tensor([0, 1]), {}, "one class index for each"),
        (x, torch.tensor([0, 1, 2]), {}, "the model has 2 classes"),
        (x, None, {"steps": 0}, "steps lies between"),
        (x, None, {"bins": 0}, "bins lies between"),
        (x, None, {"batch": 0}, "batch lies between"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.compress(model, pictures, labels, **options)
    with pytest.raises(ValueError, match="without classes"):
        codec.compress(network(), x, torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="only with their labels"):
        codec.compress(network(classes=("a", "b"), condition_dropout=0.0), x)
