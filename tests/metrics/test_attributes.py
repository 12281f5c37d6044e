"""Laws of the reader of attributes: it learns what the factors say, counts exactly, and says when it cannot tell."""

import math
from pathlib import Path

import pytest
import torch

from kakusan.data.flowers_combinations import ATTRIBUTES, SEEN, UNSEEN, sample_plain, values_of
from kakusan.metrics.attributes import (
    CLEAN_SEED,
    AttributeReader,
    Rate,
    Reading,
    drawn,
    load_reader,
    train_reader,
)


@pytest.fixture(scope="module")
def reader() -> AttributeReader:
    """Trained for seconds: enough for colours, not for numbers."""
    return train_reader(pictures=320, steps=60, batch=24, clean=100)


def flowers(count: int, **fixed):
    return [sample_plain(CLEAN_SEED + 7, i, **fixed) for i in range(count)]


def test_it_learns_what_is_easy_in_seconds(reader: AttributeReader) -> None:
    assert reader.accuracy["background"].value > 0.9
    assert reader.accuracy["leaf_count"].value > 0.6
    chance = {name: 1 / len(values) for name, values in ATTRIBUTES.items()}
    assert all(reader.accuracy[name].value > chance[name] for name in ("petal_hue", "centre_hue", "petal_form"))


def test_it_learns_from_all_pairs() -> None:
    shown = {(f.petal_hue, f.petal_count) for f in flowers(2000)}
    assert shown == {*SEEN, *UNSEEN}


def test_training_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    first = torch.rand(2)
    torch.manual_seed(3)
    one = train_reader(pictures=64, steps=2, batch=8, clean=0)
    assert torch.equal(torch.rand(2), first)
    two = train_reader(pictures=64, steps=2, batch=8, clean=0)
    assert one.hash == two.hash
    assert one.hash != train_reader(pictures=64, steps=2, batch=8, clean=0, seed=1).hash
    assert not one.training
    with pytest.raises(ValueError, match="at least 1 step"):
        train_reader(pictures=4)


def test_pictures_are_read_one_by_one(reader: AttributeReader) -> None:
    x = drawn(flowers(12))
    together, alone = reader.read(x), reader.read(x, batch=5)
    assert together.values == alone.values
    assert reader.read(x[3:4]).picture(0) == together.picture(3)
    large = torch.nn.functional.interpolate(x, scale_factor=2)
    assert reader.read(large).values == together.values
    for bad in (x[:0], x[0], x[:, :2], x[..., :16]):
        with pytest.raises(ValueError, match="square colour pictures"):
            reader.read(bad)


def test_noise_is_no_flower(reader: AttributeReader) -> None:
    noise = torch.randn((50, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    assert sum(value is None for value in reader.read(noise).values["petal_hue"]) >= 45


def reading(**values) -> Reading:
    return Reading({n: tuple(v) for n, v in values.items()}, {n: torch.ones(len(v)) for n, v in values.items()})


def test_scores_count_what_was_named() -> None:
    found = reading(petal_hue=["red", "blue", None, "pink"], petal_count=[5, 4, 3, 8])
    scores = found.scores(
        [{"petal_hue": "red", "petal_count": 5}, {"petal_hue": "red"}, {"petal_hue": "red", "petal_count": 3}, {}]
    )
    assert scores.attributes["petal_hue"] == Rate(1, 3)
    assert scores.attributes["petal_count"] == Rate(2, 2)
    assert scores.all_right == Rate(2, 4)
    assert scores.cannot_tell == {"petal_hue": 1, "petal_count": 0}
    with pytest.raises(ValueError, match="4 pictures were read, but 1"):
        found.scores([{}])
    with pytest.raises(ValueError, match="leaf_count cannot be read"):
        found.scores([{"leaf_count": 1}] * 4)


def test_one_word_changes_one_attribute() -> None:
    before = reading(petal_hue=["red", "red", None], petal_count=[5, 4, 3])
    after = reading(petal_hue=["blue", "red", "red"], petal_count=[5, 4, 8])
    assert before.kept(after) == {"petal_hue": Rate(1, 2), "petal_count": Rate(2, 3)}
    with pytest.raises(ValueError, match="one by one"):
        before.kept(reading(petal_hue=["red"], petal_count=[1]))


def test_errors_of_shares() -> None:
    assert Rate(50, 100).value == 0.5
    assert Rate(5000, 10000).stderr == pytest.approx(0.005, rel=1e-3)
    assert 0.0 < Rate(100, 100).stderr < 0.01
    assert math.isnan(Rate(0, 0).value)
    assert Rate(0, 0).text() == "–"
    # Over many draws the error is as large as it says.
    generator = torch.Generator().manual_seed(1)
    rights = (torch.rand((2000, 400), generator=generator) < 0.9).sum(1)
    spread = (rights / 400).std().item()
    assert Rate(360, 400).stderr == pytest.approx(spread, rel=0.1)


def test_it_is_kept_as_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def quickly(**options) -> AttributeReader:
        made.append(options)
        return train_reader(pictures=64, steps=2, batch=8, clean=20, **options)

    monkeypatch.setattr("kakusan.metrics.attributes.train_reader", quickly)
    first = load_reader(tmp_path / "new")
    again = load_reader(tmp_path / "new")
    assert made == [{"seed": 0, "size": 32}]
    assert (again.hash, again.accuracy) == (first.hash, first.accuracy)
    (file,) = (tmp_path / "new").iterdir()
    assert file.suffix == ".safetensors"
    file.write_bytes(b"damaged")
    assert load_reader(tmp_path / "new").hash == first.hash
    assert len(made) == 2


def test_values_are_the_factors() -> None:
    f = flowers(1, petal_hue="red", petal_count=5)[0]
    assert values_of(f) == {name: getattr(f, name) for name in ATTRIBUTES}
    assert drawn([f]).abs().max() <= 1.0
