"""Batches: the same on every way to them, at any number of threads."""

import contextlib
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.config import DataSettings
from kakusan.data.decoding import Decoder
from kakusan.data.folder import open_folder
from kakusan.data.source import ArrayPictures, Subset, decoder_of
from kakusan.data.spec import DataSpec
from kakusan.tasks.loader_speed import measure
from kakusan.train import workers
from kakusan.train.distributed import World
from kakusan.train.feed import Batch, Feed
from kakusan.train.resident import Resident, fits, stored_bytes
from kakusan.train.workers import LOOK_AT, DecodingPace


def pictures(count: int = 11, *, bits: int = 8, flip: bool = True, labels: bool = True) -> ArrayPictures:
    kind = np.uint8 if bits == 8 else np.uint16
    stored = np.random.default_rng(0).integers(0, 2**bits, (count, 3, 4, 5)).astype(kind)
    spec = DataSpec.measure(stored, flip=flip, classes=("a", "b") if labels else (), mode="")
    return ArrayPictures(spec, stored, labels=np.arange(count) % 2 if labels else None)


def equal(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.x0, other.x0)
        and torch.equal(one.numbers, other.numbers)
        and torch.equal(one.indices, other.indices)
        and (one.raw is None) == (other.raw is None)
        and (one.raw is None or other.raw is None or torch.equal(one.raw, other.raw))
    )


def first(feed: Feed, count: int, start: int = 0) -> list[Batch]:
    with contextlib.closing(feed.read_ahead(start)) as batches:
        return list(itertools.islice(batches, count))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("labels", [True, False])
@given(seed=st.integers(0, 2**63 - 1), start=st.integers(0, 10**6), size=st.integers(1, 30))
@settings(max_examples=8)
def test_a_set_on_the_device_gives_the_same_batches(bits: int, labels: bool, seed: int, start: int, size: int) -> None:
    data = pictures(bits=bits, labels=labels)
    host = Feed(data, seed=seed, batch=size, resident=False)
    device = Feed(data, seed=seed, batch=size, resident=True)
    for one, other in zip(first(host, 3, start), first(device, 3, start), strict=True):
        assert equal(one, other)
        assert one.x0.dtype == other.x0.dtype == torch.float32


class Rank(World):
    """One of several processes, without the others."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size


@pytest.mark.parametrize("resident", [False, True])
def test_processes_share_a_batch(resident: bool) -> None:
    data = pictures()
    whole = first(Feed(data, seed=1, batch=7), 2)
    parts = [first(Feed(data, seed=1, batch=7, world=Rank(rank, 2), resident=resident), 2) for rank in range(2)]
    for i, batch in enumerate(whole):
        assert torch.equal(batch.x0, torch.cat([parts[0][i].x0, parts[1][i].x0]))


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, 16])
def test_an_accelerator_gives_the_same_batches(bits: int) -> None:
    data, device = pictures(bits=bits), torch.device("cuda")
    assert fits(data, device)
    assert not fits(data, device, share=0.0)
    plain = first(Feed(data, seed=2, batch=6), 3)
    for resident in (True, False):
        for one, other in zip(
            plain, first(Feed(data, seed=2, batch=6, device=device, resident=resident), 3), strict=True
        ):
            assert torch.equal(one.x0, other.x0.cpu())
            assert other.x0.is_cuda
            assert other.raw is not None
            assert other.raw.is_cuda


def test_what_is_brought_to_the_device_is_checked_and_measured() -> None:
    data = pictures()
    assert stored_bytes(data) == 11 * 60
    assert stored_bytes(pictures(bits=16)) == 2 * 11 * 60
    assert not fits(data, torch.device("cpu"))
    narrow = DataSpec(channels=3, size=(4, 5), mean=(0.0,) * 3, std=(1.0,) * 3, mode="RGB", high=10.0)
    with pytest.raises(ValueError, match="leave the range"):
        Resident(Subset(data, range(11), spec=narrow), torch.device("cpu"))


def test_the_set_is_brought_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures()
    feed = Feed(data, seed=0, batch=4, resident=True)
    first(feed, 1)
    monkeypatch.setattr(data, "read", lambda _: pytest.fail("read again"))
    first(feed, 3, 8)


def test_the_wait_for_data_is_measured() -> None:
    data = pictures()
    slow, gate = data.read, threading.Event()
    data.read = lambda i: (gate.wait(0.05), slow(i))[1]  # type: ignore[method-assign]
    feed = Feed(data, seed=0, batch=4)
    first(feed, 1)
    assert feed.waited >= 0.04
    data.read = slow  # type: ignore[method-assign]
    first(feed, 3)
    assert 0.0 < feed.waited < 0.04


def test_threads_of_decoding_change_no_batch(pictures_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_folder(pictures_folder, size=8)
    plain = first(Feed(whole, seed=5, batch=6), 12)
    for count in (1, 3, None):
        lazy = open_folder(pictures_folder, size=8, memory_limit=0, workers=count, flip=False)
        for one, other in zip(plain, first(Feed(lazy, seed=5, batch=6), 12), strict=True):
            assert equal(one, other)
    # Also while their number is being changed all the time.
    lazy = open_folder(pictures_folder, size=8, memory_limit=0)
    decoder = decoder_of(Subset(lazy, range(len(lazy))))
    assert decoder is not None
    turns = itertools.cycle([1, decoder.most])
    monkeypatch.setattr(workers.DecodingPace, "observe", lambda *_: setattr(decoder, "workers", next(turns)))
    for one, other in zip(plain, first(Feed(lazy, seed=5, batch=6), 12), strict=True):
        assert equal(one, other)


@pytest.fixture(scope="module")
def pictures_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import small_runs

    return small_runs.draw_pictures(tmp_path_factory.mktemp("pictures"))


class Machine:
    """Decoding takes `work / min(workers, cores)` seconds, a step `step` seconds."""

    def __init__(self, work: float, step: float, cores: int, *, workers: int = 1, measured: bool = True) -> None:
        self.decoder = Decoder(lambda _: np.zeros((1, 1, 1), np.uint8), (1, 1, 1), np.dtype(np.uint8), workers)
        self.decoder.most, self.decoder.measured = 16, measured
        self.work, self.step, self.cores = work, step, cores
        self.pace = DecodingPace(self.decoder)

    def settle(self) -> list[int]:
        seen = []
        for _ in range(20 * LOOK_AT):
            self.pace.observe(self.work / min(self.decoder.workers, self.cores), self.step)
            seen.append(self.decoder.workers)
        return seen[-5 * LOOK_AT :]


@pytest.mark.parametrize(
    ("work", "step", "cores", "start", "expected"),
    [
        (1.0, 0.3, 16, 1, 4),  # four threads keep up, eight are not needed
        (1.0, 0.3, 16, 16, 4),  # threads that idle are given back
        (0.1, 1.0, 16, 8, 1),
        (1.0, 0.01, 4, 1, 4),  # more threads than cores gain nothing
        (1.0, 0.01, 16, 1, 16),
        (0.5, 1.0, 16, 1, 1),
    ],
)
def test_threads_settle_where_decoding_keeps_up(
    work: float, step: float, cores: int, start: int, expected: int
) -> None:
    assert set(Machine(work, step, cores, workers=start).settle()) == {expected}


def test_a_number_that_the_user_chose_stays() -> None:
    assert set(Machine(1.0, 0.01, 16, workers=3, measured=False).settle()) == {3}


def test_one_slow_step_changes_nothing() -> None:
    machine = Machine(0.5, 1.0, 16)
    for i in range(4 * LOOK_AT):
        machine.pace.observe(0.5, 1000.0 if i % LOOK_AT == 0 else 1.0)
        assert machine.decoder.workers == 1


def test_the_loader_alone_is_measured(pictures_folder: Path) -> None:
    found = measure(DataSettings(source=str(pictures_folder), size=8, cache="off"), batch=4, seconds=0.01)
    assert found.per_second > 0
    assert found.decoding == {}
    assert found.stored_bytes == found.pictures * 3 * 64
    assert "pictures/s in batches of 4" in found.text()
    with pytest.raises(ValueError, match="batch is at least 1"):
        measure(DataSettings(source=str(pictures_folder)), batch=0)
