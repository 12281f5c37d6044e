"""Feature spaces: rows of their own, hashes that mean something, stores that are not trusted, and real pictures that
look real."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.metrics.classifier import Classifier
from kakusan.metrics.distance import Splits
from kakusan.metrics.frechet import Frechet
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces import SPACES, Space, default_spaces, features, judge, open_judge, open_spaces
from kakusan.metrics.spaces import self_supervised as masking
from kakusan.metrics.spaces.base import NetworkSpace
from kakusan.metrics.spaces.self_supervised import MaskingRecipe, mask_for, train_filler
from kakusan.metrics.spaces.untrained import PatchStatistics, RandomNetwork

OWN = ("classifier", "self-supervised", "random", "patches")


@pytest.fixture(autouse=True)
def _short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "RECIPE", MaskingRecipe(widths=(8, 16), steps=4, batch=16))
    monkeypatch.setattr(judge, "STEPS", 3)
    monkeypatch.setattr(judge, "BATCH", 16)


def blobs(
    num: int, shape: tuple[int, ...] = (3, 10, 10), *, seed: int = 0, bits: int = 8, classes: int = 3
) -> ArrayPictures:
    """Coloured blobs somewhere on a coloured ground, with grain; the class decides how wide the blob is."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    labels = np.arange(num) % max(classes, 1)
    y, x = np.mgrid[0:height, 0:width]
    cy, cx = rng.uniform(0.2, 0.8, (2, num, 1, 1)) * np.array([height, width])[:, None, None, None]
    spread = (0.08 + 0.08 * labels[:, None, None]) * min(height, width) + 0.3
    blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * spread**2))[:, None]
    colour, ground = rng.uniform(0.5, 1.0, (num, channels, 1, 1)), rng.uniform(0.0, 0.3, (num, channels, 1, 1))
    unit = ground + (colour - ground) * blob + rng.normal(0, 0.02, (num, *shape))
    stored = (unit.clip(0, 1) * (2**bits - 1)).round().astype(np.uint8 if bits == 8 else np.uint16)
    names = tuple(f"width {k}" for k in range(classes))
    spec = DataSpec.measure(stored, classes=names)
    return ArrayPictures(spec, stored, labels=labels if classes else None)


def dealt(num: int = 80, held: int = 30, **kind: object) -> Reference:
    return Reference.of(blobs(num, seed=1, **kind), blobs(held, seed=2, **kind))


def opened(name: str, reference: Reference, folder: Path | None = None) -> Space:
    return open_spaces([name], reference, folder=folder)[0]


@pytest.mark.parametrize("name", OWN)
def test_a_row_depends_on_its_own_picture_only(name: str) -> None:
    reference = dealt()
    space, x = opened(name, reference), reference.pool.x()
    together = space(x)
    assert together.shape[0] == len(x)
    assert together.shape[1] >= 4
    alone = torch.cat([space(x[i : i + 1]) for i in (0, 7, 33)])
    torch.testing.assert_close(alone, together[[0, 7, 33]], atol=1e-5, rtol=1e-5)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(space(x[order]), together[order], atol=1e-5, rtol=1e-5)
    # and it does depend on it
    assert not torch.allclose(space(x.flip(1)), together, atol=1e-2)


@pytest.mark.parametrize("name", OWN)
def test_the_hash_is_that_of_weights_and_learning_and_not_of_the_run(name: str) -> None:
    reference = dealt()
    space = opened(name, reference)
    again = opened(name, Reference(*(dataclasses.replace(s) for s in vars_of(reference))))
    assert again.hash == space.hash
    x = reference.pool.x()
    assert torch.equal(space(x), again(x))
    # Another pool changes nothing: the space is that of the learning part.
    other_pool = dataclasses.replace(reference, pool=reference.pool.take(range(64)))
    assert opened(name, other_pool).hash == space.hash
    learnt_less = dataclasses.replace(reference, learning=reference.learning.take(range(len(reference.learning) - 1)))
    assert opened(name, learnt_less).hash != space.hash


def vars_of(reference: Reference) -> list[PictureSet]:
    return [getattr(reference, f.name) for f in dataclasses.fields(reference)]


def test_the_hash_changes_with_the_weights() -> None:
    networks = [RandomNetwork(channels=3), RandomNetwork(channels=3), RandomNetwork(channels=3, seed=1)]
    first, same, other = (NetworkSpace("random", network).hash for network in networks)
    assert first == same != other
    nudged = RandomNetwork(channels=3)
    nudged.get_buffer("weight2")[0, 0, 0, 0] += 1e-6
    assert NetworkSpace("random", nudged).hash != first


def test_random_weights_are_whole_numbers_scaled_so_that_every_machine_has_the_same_bits() -> None:
    weight = RandomNetwork(channels=1).get_buffer("weight0").double()
    steps = weight / (3.0**0.5 * (1 / 5) / 2**16)
    assert torch.equal(steps.round().float(), steps.float().round())
    torch.testing.assert_close(steps, steps.round(), atol=0.01, rtol=0)
    assert abs(float(steps.mean())) < 2**16 * 0.15


@pytest.mark.parametrize("name", ["classifier", "self-supervised"])
def test_what_is_stored_is_used_and_equals_what_was_trained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = dealt()
    first, retrained = opened(name, reference, tmp_path), opened(name, reference)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("it was trained again")

    with monkeypatch.context() as patch:
        patch.setattr(masking, "train_filler", forbidden)
        patch.setattr(judge, "train_classifier", forbidden)
        second = opened(name, reference, tmp_path)
    x = reference.pool.x()
    assert first.hash == second.hash == retrained.hash
    assert torch.equal(first(x), second(x))
    assert torch.equal(first(x), retrained(x))


def _cut(place: Path, _: Path) -> None:
    place.write_bytes(place.read_bytes()[:-100])


def _flip(place: Path, _: Path) -> None:
    content = bytearray(place.read_bytes())
    content[-5] ^= 1
    place.write_bytes(content)


def _foreign(place: Path, beside: Path) -> None:
    import hashlib

    from safetensors.torch import save

    place.write_bytes(save({"head.weight": torch.zeros(2, 2)}))
    facts = json.loads(beside.read_text())
    beside.write_text(json.dumps(facts | {"sha256": hashlib.sha256(place.read_bytes()).hexdigest()}))


def _not_finite(place: Path, beside: Path) -> None:
    import hashlib

    from safetensors.torch import load, save

    tensors = load(place.read_bytes())
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    place.write_bytes(save(tensors))
    facts = json.loads(beside.read_text())
    beside.write_text(json.dumps(facts | {"sha256": hashlib.sha256(place.read_bytes()).hexdigest()}))


def _of_others(_: Path, beside: Path) -> None:
    said = json.loads(beside.read_text())
    beside.write_text(json.dumps(said | {"facts": said["facts"] | {"learning": "0" * 16}}))


def _no_json(_: Path, beside: Path) -> None:
    beside.write_text("{")


def _half(_: Path, beside: Path) -> None:
    beside.unlink()


@pytest.mark.parametrize("damage", [_cut, _flip, _foreign, _not_finite, _of_others, _no_json, _half])
def test_a_damaged_or_foreign_store_is_trained_anew(damage: object, tmp_path: Path) -> None:
    reference = dealt()
    before = opened("self-supervised", reference, tmp_path)
    place, beside = (next(tmp_path.glob(f"*{suffix}")) for suffix in (".safetensors", ".json"))
    whole = place.read_bytes()
    damage(place, beside)
    said: list[str] = []
    after = open_spaces(["self-supervised"], reference, folder=tmp_path, say=said.append)[0]
    assert any("is not used" in line for line in said)
    assert after.hash == before.hash
    assert place.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_no_evaluation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    reference = dealt()
    space = open_spaces(["self-supervised"], reference, folder=tmp_path / "file", say=said.append)[0]
    assert space.hash == opened("self-supervised", reference).hash
    assert any("could not be written" in line for line in said)


def test_without_labels_there_is_no_judge_and_the_error_says_so() -> None:
    reference = dealt(classes=0)
    assert open_judge(reference) is None
    assert default_spaces(reference) == OWN[1:]
    with pytest.raises(ValueError, match="needs real pictures with labels of at least two classes"):
        open_spaces(["classifier"], reference)
    one = dealt(classes=1)
    assert open_judge(one) is None
    assert default_spaces(one) == OWN[1:]


def test_the_judge_is_the_network_of_the_space(tmp_path: Path) -> None:
    reference = dealt()
    assert default_spaces(reference) == OWN
    found, space = open_judge(reference, folder=tmp_path), opened("classifier", reference, tmp_path)
    assert isinstance(found, Classifier)
    assert isinstance(space, NetworkSpace)
    assert isinstance(space.network, Classifier)
    x = reference.pool.x()
    assert torch.equal(found(x), space.network(x))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_names_are_checked_before_anything_is_trained() -> None:
    reference = dealt()
    with pytest.raises(ValueError, match="did you mean 'patches'"):
        open_spaces(["random", "patchs"], reference)
    with pytest.raises(ValueError, match="takes no weights"):
        open_spaces(["random=here"], reference)
    with pytest.raises(ValueError, match="named twice"):
        open_spaces(["random", "random"], reference)
    assert open_spaces([], reference) == []
    assert set(OWN) < set(SPACES)


def test_too_few_pictures_are_refused() -> None:
    reference = dealt(num=10, held=60)
    for name in OWN[1:]:
        with pytest.raises(ValueError, match="at least 8 pictures"):
            opened(name, reference)


def test_data_that_are_not_pictures_are_refused() -> None:
    reference = dealt()
    spec = dataclasses.replace(reference.pool.spec, size=(100,))
    flat = Reference(*(PictureSet(s.stored.flatten(2), spec, s.labels) for s in vars_of(reference)))
    for name in OWN:
        with pytest.raises(ValueError, match="are for pictures"):
            opened(name, flat)


@settings(max_examples=8, deadline=None)
@given(
    channels=st.integers(1, 5),
    height=st.integers(4, 30),
    width=st.integers(4, 30),
    bits=st.sampled_from([8, 16]),
    num=st.integers(24, 60),
)
def test_pictures_of_any_shape_have_features(channels: int, height: int, width: int, bits: int, num: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "RECIPE", MaskingRecipe(widths=(8, 16), steps=1, batch=16))
        patch.setattr(judge, "STEPS", 1)
        patch.setattr(judge, "BATCH", 16)
        reference = dealt(num, 64, shape=(channels, height, width), bits=bits)
        for space in open_spaces(OWN, reference):
            found = features(space, reference.pool)
            assert found.shape[0] == len(reference.pool)
            assert found.shape[1] >= 2
            assert (found.std(0) > 0).any()


def test_pictures_that_are_all_alike_have_finite_features() -> None:
    stored = np.full((100, 3, 8, 8), 77, np.uint8)
    spec = DataSpec.measure(stored, classes=("a", "b"))
    alike = ArrayPictures(spec, stored, labels=np.arange(100) % 2)
    reference = Reference.of(alike, blobs(30, (3, 8, 8), classes=2))
    for space in open_spaces(OWN, reference):
        features(space, reference.pool)


def test_large_pictures_are_shrunk_where_a_network_is_trained_and_the_record_says_how() -> None:
    reference = dealt(80, 20, shape=(3, 96, 90))
    sizes = {space.name: space.resizer for space in open_spaces(OWN, reference)}
    assert sizes == {
        "classifier": "mean of 3 x 3 pixels",
        "self-supervised": "mean of 2 x 2 pixels",
        "random": "none",
        "patches": "none",
    }


def labels_of(samples: PictureSet, reference: Reference) -> dict[str, Tensor | None]:
    """For halves with each class in the same proportion."""
    return {"labels": samples.labels, "pool_labels": reference.pool.labels}


@pytest.mark.parametrize("name", OWN)
def test_new_pictures_are_as_far_from_half_of_the_pool_as_its_other_half(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning part is in no distance, so new pictures and the pool's are alike to the extractor."""
    monkeypatch.setattr(judge, "STEPS", 20)
    reference = dealt(400, 200)
    space = opened(name, reference)
    pool, ratios = features(space, reference.pool), []
    for seed in range(5):
        fresh = PictureSet.read(blobs(200, seed=50 + seed))
        compare = Frechet().on(torch.cat([features(space, fresh), pool]))
        found = Splits(count=3).measure(compare, n=200, pool=len(pool), **labels_of(fresh, reference))
        ratios.append(found.value / found.null)
    assert 0.85 < sum(ratios) / 5 < 1.18


def shifted(x: Tensor) -> Tensor:
    return (x + 0.25 * torch.tensor([1.0, -1.0, 0.0])[:, None, None]).clamp(-1, 1)


def smoothed(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def grainy(x: Tensor) -> Tensor:
    return x + 0.15 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("name", "fault"),
    [("patches", shifted), ("patches", smoothed), ("patches", grainy), ("random", shifted), ("random", smoothed)],
)
def test_faults_are_seen(name: str, fault: object) -> None:
    reference = dealt(400, 200)
    fresh = PictureSet.read(blobs(200, seed=9))
    wrong = PictureSet.sampled(fault(fresh.x()), fresh.spec, fresh.labels)
    space = opened(name, reference)
    together = torch.cat([features(space, wrong), features(space, reference.pool)])
    found = Splits(count=4).measure(
        Frechet().on(together), n=200, pool=len(reference.pool), **labels_of(fresh, reference)
    )
    assert found.value / found.null > 1.5


def test_training_leaves_the_callers_random_state_alone_and_repeats() -> None:
    reference = dealt()
    recipe = MaskingRecipe(steps=4, batch=16)
    before = torch.random.get_rng_state()
    first, second = (train_filler(reference.learning, recipe).encoder for _ in range(2))
    other = train_filler(reference.learning, dataclasses.replace(recipe, seed=1)).encoder
    assert torch.equal(torch.random.get_rng_state(), before)
    x = reference.pool.x()
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), other(x))


def test_training_without_labels_learns_to_fill_in_what_is_hidden() -> None:
    """Better than saying of each picture, for what is hidden, the mean of what is not."""
    reference = dealt(240, 100)
    filler = train_filler(reference.learning, MaskingRecipe(widths=(16, 32), steps=80, batch=32))
    x = reference.pool.x()
    mask = mask_for(x, filler.encoder.cell, 0.5, torch.Generator().manual_seed(0))
    shown = 1.0 - mask
    mean = (x * shown).sum((2, 3), keepdim=True) / shown.sum((2, 3), keepdim=True).clamp_min(1.0)
    guess = float(((mean - x).square() * mask).sum() / (mask.sum() * 3))
    assert float(filler.error(x, mask)) < 0.7 * guess


@settings(max_examples=50, deadline=None)
@given(height=st.integers(2, 50), width=st.integers(2, 50), cell=st.sampled_from([4, 8, 16]))
def test_about_half_of_the_picture_is_hidden(height: int, width: int, cell: int) -> None:
    mask = mask_for(torch.zeros(64, 3, height, width), cell, 0.5, torch.Generator().manual_seed(0))
    assert mask.shape == (64, 1, height, width)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert 0.35 < float(mask.mean()) < 0.65


def test_patches_of_a_flat_picture_see_no_detail() -> None:
    network = PatchStatistics(channels=3, size=(16, 16))
    flat = torch.full((1, 3, 16, 16), 0.3)
    found = network(flat)[0]
    colours = 6
    assert float(found[:colours].abs().max()) < 1e-6
    assert float(found[colours : -colours - 3].abs().max()) < 1e-3
    torch.testing.assert_close(found[-colours - 3 : -colours], torch.full((3,), 0.3))
