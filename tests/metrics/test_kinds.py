"""Kinds are counted: shares in closed form, a judge of planted factors, and modes that are missing are named."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kakusan.data.spec import DataSpec
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.kinds import (
    Kinds,
    Known,
    count_kinds,
    covered,
    imbalance,
    learn_kinds,
    open_kinds,
)
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet

COLOURS = ("red", "green", "blue")
SIDES = ("left", "right")


def drawn(count: int, seed: int = 0, colours: tuple[int, ...] = (0, 1, 2)) -> tuple[Tensor, Tensor]:
    """(pictures of a coloured half, (colour, side) of each)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 40, (count, 3, 8, 8), generator=generator)
    colour = torch.tensor(colours)[torch.randint(len(colours), (count,), generator=generator)]
    side = torch.randint(2, (count,), generator=generator)
    for i in range(count):
        half = slice(0, 4) if side[i] == 0 else slice(4, 8)
        x[i, colour[i], :, half] += 180
    return x.to(torch.uint8), torch.stack([colour, side], 1)


SPEC = DataSpec.measure(drawn(64)[0].numpy(), classes=COLOURS, mode="RGB")


def known(count: int = 240) -> Known:
    stored, factors = drawn(count)
    return Known(PictureSet(stored, SPEC, factors[:, 0]), factors, {"colour": COLOURS, "side": SIDES})


@pytest.fixture(scope="module")
def kinds() -> Kinds:
    return learn_kinds(known(), steps=40, batch=16)


def evaluation(count: int = 160) -> Evaluation:
    stored, factors = drawn(count, seed=9)
    pool = PictureSet(stored, SPEC, factors[:, 0])
    learning = PictureSet(*(lambda s, f: (s, SPEC, f[:, 0]))(*drawn(96, seed=5)))
    return Evaluation(Reference(learning, pool, learning, pool.take(range(10))), [], [])


def test_shares_in_closed_form() -> None:
    numbers = torch.tensor([0, 0, 1, 0, 1, 2, 2])
    a, b = torch.arange(3), torch.arange(3, 7)
    assert covered(numbers, a, b) == 0.5
    assert covered(numbers, b, a) == 1.0
    # (2/3, 1/3, 0) beside (1/4, 1/4, 1/2).
    assert imbalance(numbers, a, b) == pytest.approx(0.5 * (5 / 12 + 1 / 12 + 1 / 2))
    assert imbalance(numbers, a, a) == 0.0
    assert imbalance(numbers, torch.tensor([0]), torch.tensor([5])) == 1.0


def test_the_judge_reads_planted_factors(kinds: Kinds) -> None:
    assert min(kinds.accuracy.values()) > 0.95
    stored, factors = drawn(50, seed=3)
    readings = kinds(SPEC.to_model(stored))
    assert (readings == factors).float().mean() > 0.95
    # One number for each combination.
    every = torch.cartesian_prod(torch.arange(3), torch.arange(2))
    assert kinds.number(every).tolist() == list(range(6))


def test_real_pictures_cover_and_a_missing_mode_is_named(kinds: Kinds) -> None:
    judge = evaluation()
    found = {}
    for name, colours in (("real", (0, 1, 2)), ("no green", (0, 2))):
        stored, factors = drawn(64, seed=77, colours=colours)
        found[name] = count_kinds(kinds, judge, PictureSet(stored, SPEC, factors[:, 0]))
    real, lost = found["real"], found["no green"]
    assert real.seen == (6, 6)
    assert real.missing == []
    assert lost.seen[0] == 4
    assert lost.missing == ["colour green"]
    by_name = {key: {r.name: r for r in count.records} for key, count in found.items()}
    assert by_name["real"]["kinds covered"].value == pytest.approx(1.0, abs=0.02)
    assert by_name["no green"]["kinds covered"].value == pytest.approx(2 / 3, abs=0.1)
    assert by_name["no green"]["kinds out of balance"].value > by_name["real"]["kinds out of balance"].value + 0.15
    assert by_name["real"]["condition accuracy"].value > 0.95
    assert by_name["real"]["condition accuracy"].stderr > 0


def test_ignored_labels_show_in_the_accuracy(kinds: Kinds) -> None:
    stored, factors = drawn(64, seed=78)
    wrong = PictureSet(stored, SPEC, (factors[:, 0] + 1) % 3)
    records = {r.name: r for r in count_kinds(kinds, evaluation(), wrong).records}
    assert records["condition accuracy"].value < 0.1
    assert records["condition accuracy"].null is not None
    assert records["condition accuracy"].null > 0.95


def test_a_judge_is_learnt_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kakusan.metrics import kinds as module

    lines: list[str] = []
    reference = evaluation().reference
    monkeypatch.setattr(module, "learn_kinds", lambda known: learn_kinds(known, steps=3, batch=4))
    first = open_kinds("some/folder", reference, folder=tmp_path, say=lines.append)
    assert first is not None
    assert list(first.names) == ["class"]
    monkeypatch.setattr(module, "learn_kinds", None)
    again = open_kinds("some/folder", reference, folder=tmp_path, say=lines.append)
    assert again is not None
    assert again.hash == first.hash
    assert again.accuracy == first.accuracy
    assert len(lines) == 1


def test_without_classes_nothing_is_counted() -> None:
    bare = DataSpec.measure(drawn(64)[0].numpy(), mode="RGB")
    pictures = PictureSet(drawn(64)[0], bare)
    assert open_kinds("folder", Reference(pictures, pictures, pictures, pictures)) is None
