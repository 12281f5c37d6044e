"""Laws of the drawn flowers: a picture is a function of its factors, and shows them."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data import flowers
from kakusan.data.flowers import SPECIES, SPLITS, Factors, caption, draw, draw_batch, pictures, sample_factors
from kakusan.data.flowers_backdrop import BACKGROUNDS
from kakusan.data.flowers_forms import angle_of
from kakusan.data.flowers_species import HUES
from kakusan.data.flowers_species import SPECIES as KINDS
from kakusan.data.flowers_words import number_in_english, number_in_japanese
from kakusan.data.source import Pictures, open_data

each = pytest.mark.parametrize("species", SPECIES)


def light(stored: np.ndarray) -> np.ndarray:
    return (stored.astype(np.float64) / 255.0) ** 2


def some(count: int, seed: int = 9) -> list[Factors]:
    return [sample_factors(seed, index) for index in range(count)]


def petal_mask(factors: Factors, size: int) -> np.ndarray:
    """Where the petals' colour decides the picture: what changes when only that colour does."""
    other = dataclasses.replace(factors, petal_rgb=tuple(255 - v for v in factors.petal_rgb))
    return np.abs(draw(factors, size).astype(int) - draw(other, size)).max(axis=-1) > 40


def test_at_least_twelve_species_with_distinct_looks() -> None:
    assert len(SPECIES) == len(set(SPECIES)) >= 12
    looks = {(k.petal_form, k.hues, k.counts, k.centres) for k in KINDS.values()}
    assert len(looks) == len(SPECIES)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_factors_are_a_function_of_seed_and_index_and_within_their_ranges(seed: int, index: int) -> None:
    f = sample_factors(seed, index)
    assert f == sample_factors(seed, index)
    assert f != sample_factors(seed ^ 1, index)
    kind = KINDS[f.species]
    assert f.species == SPECIES[index % len(SPECIES)]
    assert f.petal_count in kind.counts
    assert f.petal_hue in kind.hues
    assert f.background in kind.backgrounds
    assert f.leaf_count in kind.leaves
    assert f.flower_count in kind.blooms
    assert abs(f.rotation) <= kind.turn
    assert kind.sizes[0] <= f.scale <= kind.sizes[1]
    assert all(0 <= v <= 255 for rgb in (f.petal_rgb, f.centre_rgb, f.leaf_rgb) for v in rgb)


def test_a_picture_alone_is_the_picture_in_a_batch() -> None:
    factors = some(40)
    together = draw_batch(factors, 24)
    # The last bit of a vectorised float may depend on its place in the array: one level at most.
    for i in (0, 7, 16, 39):
        assert np.abs(draw(factors[i], 24).astype(int) - together[i]).max() <= 1
    shuffled = draw_batch(factors[::-1], 24)[::-1]
    assert np.abs(shuffled.astype(int) - together).max() <= 1
    assert np.array_equal(draw_batch(factors, 24), together)


def test_bands_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = some(16)
    whole = draw_batch(factors, 40)
    monkeypatch.setattr(flowers, "_SAMPLES", 4 * 40 * 7)
    assert np.abs(draw_batch(factors, 40).astype(int) - whole).max() <= 1


@each
def test_a_picture_is_the_same_at_every_size(species: str) -> None:
    factors = [sample_factors(21, index, species) for index in range(4)]
    large, small = light(draw_batch(factors, 128)), light(draw_batch(factors, 32))
    shrunk = large.reshape(4, 32, 4, 32, 4, 3).mean(axis=(2, 4))
    difference = 255.0 * np.abs(np.sqrt(shrunk) - np.sqrt(small))
    # Marks that 32 pixels cannot carry are left out there, and edges are a little softer.
    assert difference.mean() < 3.5
    assert np.quantile(difference, 0.99) < 30.0
    other = light(draw_batch([sample_factors(22, index, species) for index in range(4)], 32))
    assert difference.mean() * 6.0 < 255.0 * np.abs(np.sqrt(other) - np.sqrt(small)).mean()


def test_a_wide_picture_holds_the_square_one() -> None:
    for f in some(16):
        wide, tall, square = draw(f, (32, 64)), draw(f, (64, 32)), draw(f, 32)
        assert wide.shape == (32, 64, 3)
        assert np.abs(wide[:, 16:48].astype(int) - square).max() <= 1
        assert np.abs(tall[16:48].astype(int) - square).max() <= 1


def test_tiny_and_empty_requests() -> None:
    assert draw(some(1)[0], 1).shape == (1, 1, 3)
    assert draw_batch([], 8).shape == (0, 8, 8, 3)
    with pytest.raises(ValueError, match="at least one pixel"):
        draw(some(1)[0], (0, 4))


@each
def test_the_named_hue_dominates_the_petals(species: str) -> None:
    palette = KINDS[species].hues + tuple(h for h in ("white", "yellow", "blue") if h not in KINDS[species].hues)
    right = 0
    for index in range(10):
        f = sample_factors(4, index, species)
        mask = petal_mask(f, 40)
        assert mask.mean() > 0.06
        seen = np.median(draw(f, 40)[mask], axis=0)
        distance = {h: np.abs(seen / seen.max() - np.array(HUES[h].rgb) / max(HUES[h].rgb)).sum() for h in palette}
        right += min(distance, key=distance.__getitem__) == f.petal_hue
    assert right >= 9


INNER, RIM = (0.5, 0.6, 0.7), (0.9, 0.97)


@pytest.mark.parametrize(
    ("species", "radii"),
    [
        ("daisy", INNER),
        ("daisy", RIM),
        ("lily", INNER),
        ("cherry blossom", INNER),
        ("hibiscus", RIM),
        ("morning glory", RIM),
    ],
)
def test_the_count_of_petals_can_be_read_off_the_picture(species: str, radii: tuple[float, ...]) -> None:
    """The strongest angular frequency where the petals part is their number."""
    right = 0
    for index in range(8):
        f = dataclasses.replace(
            sample_factors(31, index, species), tilt=1.0, leaf_count=0, background="studio", x=0.0, y=0.0
        )
        size = 160
        picture = draw(f, size).astype(float).max(axis=-1) * petal_mask(f, size)
        angles = np.linspace(0.0, 2.0 * np.pi, 720, endpoint=False)
        total = np.zeros(361)
        for radius in radii:
            place = f.scale * radius
            x, y = place * np.cos(angles), place * np.sin(angles)
            column, row = ((x + 1.0) * size / 2.0).astype(int), ((1.0 - y) * size / 2.0).astype(int)
            total += np.abs(np.fft.rfft(picture[row.clip(0, size - 1), column.clip(0, size - 1)])) ** 2
        # From 4: below are the light from one side and the picture's border. Up to 30: no species here has more.
        right += 4 + int(np.argmax(total[4:30])) == f.petal_count
    assert right >= 7


@each
def test_more_leaves_are_more_green(species: str) -> None:
    f = dataclasses.replace(sample_factors(5, 3, species), background="studio", leaf_rgb=(60, 160, 60))
    bare = draw(dataclasses.replace(f, leaf_count=0), 64).astype(int)
    areas = [
        (np.abs(draw(dataclasses.replace(f, leaf_count=n), 64) - bare).max(axis=-1) > 25).sum()
        for n in range(max(KINDS[species].leaves) + 1)
    ]
    assert areas[0] == 0
    assert min(np.diff(areas)) > 15


@pytest.mark.parametrize("species", ["bluebell", "forget-me-not"])
def test_more_flowers_are_more_colour(species: str) -> None:
    f = sample_factors(5, 3, species)
    areas = [petal_mask(dataclasses.replace(f, flower_count=n), 64).sum() for n in KINDS[species].blooms]
    assert min(np.diff(areas)) > 30


def test_backgrounds_fill_what_the_flower_leaves() -> None:
    f = dataclasses.replace(sample_factors(1, 0, "tulip"), leaf_count=0)
    corners = {}
    for name in BACKGROUNDS:
        picture = draw(dataclasses.replace(f, background=name), 48)
        corners[name] = np.concatenate([picture[:10, :10].reshape(-1, 3), picture[-10:, :10].reshape(-1, 3)]).mean(
            axis=0
        )
    for a in corners:
        for b in corners:
            assert a == b or np.abs(corners[a] - corners[b]).max() > 4.0


def test_position_and_scale_move_the_flower() -> None:
    f = dataclasses.replace(sample_factors(2, 0, "daisy"), x=0.0, y=0.05, scale=0.6)

    def middle_and_area(factors: Factors) -> tuple[np.ndarray, float]:
        rows, columns = np.nonzero(petal_mask(factors, 96))
        return np.array([columns.mean(), -rows.mean()]) / 48.0, len(rows) / 48.0**2

    here, area = middle_and_area(f)
    there, _ = middle_and_area(dataclasses.replace(f, x=0.15, y=0.15))
    assert there - here == pytest.approx([0.15, 0.10], abs=0.02)
    assert middle_and_area(dataclasses.replace(f, scale=0.72))[1] / area == pytest.approx(1.44, rel=0.06)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_captions_name_every_visible_factor(index: int) -> None:
    f = sample_factors(77, index)
    english, japanese = caption(f), caption(f, "ja")
    assert re.match(r"(an? |\w+ )", english)
    assert f.species in english
    assert f.petal_hue in english
    assert f.centre_hue in english
    assert BACKGROUNDS[f.background].english in english
    assert HUES[f.petal_hue].japanese in japanese
    assert BACKGROUNDS[f.background].japanese in japanese
    assert KINDS[f.species].japanese.name in japanese
    words = re.findall(r"[a-z-]+", english)
    assert number_in_english(f.petal_count) in words or f.species == "bluebell"
    assert number_in_english(f.leaf_count) in words
    if f.flower_count > 1:
        assert number_in_english(f.flower_count) in words
        assert number_in_japanese(f.flower_count) + "輪" in japanese
    for article, noun in re.findall(r"\b(an?) (\w)", english):
        assert (article == "an") == (noun in "aeiou")
    assert ("one leaf," in english or "one floating leaf," in english) == (f.leaf_count == 1)
    assert "  " not in english + japanese
    assert "{" not in english + japanese


def test_captions_read_as_written_by_a_person() -> None:
    f = dataclasses.replace(sample_factors(1, 1, "daisy"), petal_count=13, leaf_count=2, background="dusk")
    assert caption(f) == "a daisy with thirteen slender white petals and a yellow centre, two leaves, before a dusk sky"
    assert caption(f, "ja") == "細長い白い花びら十三枚と黄色い中心をもつヒナギク、葉は二枚、背景は夕暮れの空"
    with pytest.raises(ValueError, match="en or ja"):
        caption(f, "fr")


def test_numbers_in_words() -> None:
    assert [number_in_english(n) for n in (0, 1, 13, 20, 26, 99)] == [
        "no", "one", "thirteen", "twenty", "twenty-six", "ninety-nine",
    ]  # fmt: skip
    assert [number_in_japanese(n) for n in (1, 10, 13, 20, 56)] == ["一", "十", "十三", "二十", "五十六"]


def test_data_set_is_balanced_labelled_and_reproducible() -> None:
    data = pictures(size=16, num=80)
    assert isinstance(data, Pictures)
    assert data.spec.shape == (3, 16, 16)
    assert data.spec.classes == SPECIES
    assert torch.equal(torch.bincount(data.labels), torch.full((len(SPECIES),), 80 // len(SPECIES)))
    stored = data.read(range(80))
    assert stored.dtype == torch.uint8
    f = sample_factors(SPLITS["train"], 37)
    assert np.abs(stored[37].numpy().transpose(1, 2, 0).astype(int) - draw(f, 16)).max() <= 1
    assert data.captions[37] == caption(f)
    assert SPECIES[int(data.labels[37])] == f.species
    again = pictures(size=16, num=80)
    assert again.fingerprint == data.fingerprint
    assert open_data("flowers", size=16, num=80).fingerprint == data.fingerprint


def test_splits_never_meet() -> None:
    keys = [{sample_factors(SPLITS[split], index).detail for index in range(2000)} for split in SPLITS]
    assert all(len(k) == 2000 for k in keys)
    assert not keys[0] & keys[1]
    train, held_out = pictures(16, 160), pictures(16, 160, "held-out")
    assert train.fingerprint != held_out.fingerprint
    assert not {train.digest(i) for i in range(160)} & {held_out.digest(i) for i in range(160)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_factors(0, 0, "tulp"), "did you mean 'tulip'"),
        (lambda: pictures(16, 16, "heldout"), "did you mean 'held-out'"),
        (lambda: pictures(16, 0), "at least one picture"),
        (lambda: draw(dataclasses.replace(some(1)[0], background="dsk")), "did you mean 'dusk'"),
    ],
)
def test_unknown_names_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_fast_angle() -> None:
    turn = np.linspace(-np.pi + 1e-4, np.pi, 4001, dtype=np.float32)
    found = angle_of(np.cos(turn) * 3.0, np.sin(turn) * 3.0)
    assert np.abs(np.angle(np.exp(1j * (found - turn)))).max() < 5e-3
