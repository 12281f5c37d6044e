import dataclasses
import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from kakusan.data.captions import Caption
from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.encoders.clip import Clip
from kakusan.encoders.image import VisionTransformer
from kakusan.metrics.clip import bare_name, known_templates, measure_clip, retrieval, zero_shot
from kakusan.train.clip import Captioned, ClipTraining, embed, held_out_loss, order, shared, spaced, train_clip
from kakusan.train.clip_model import ClipSizes, kinds_of_texts

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 220), "white": (240, 240, 240)}
JAPANESE = {"red": "赤い", "green": "緑の", "blue": "青い", "white": "白い"}
SIDES = {"left": "左", "right": "右"}
CLASSES = tuple(f"{colour} {side}" for colour, side in itertools.product(COLOURS, SIDES))
SIZES = ClipSizes(width=8, features=16, text_width=16, text_depth=1, length=16, vocabulary=300)


def squares(count: int, seed: int, *, captions: bool = True) -> ArrayPictures:
    """Bright squares on the left or on the right, noisy, with a caption in each language."""
    draw = torch.Generator().manual_seed(seed)
    stored = torch.randint(0, 60, (count, 3, 8, 8), generator=draw, dtype=torch.uint8)
    labels = torch.arange(count) % len(CLASSES)
    texts = []
    for row, label in enumerate(labels.tolist()):
        colour, side = CLASSES[label].split()
        left = 0 if side == "left" else 4
        stored[row, :, 2:6, left : left + 4] = torch.tensor(COLOURS[colour], dtype=torch.uint8)[:, None, None]
        texts.append(
            [Caption(f"a {colour} square on the {side}", "en"), Caption(f"{SIDES[side]}に{JAPANESE[colour]}", "ja")]
        )
    return ArrayPictures(
        DataSpec.measure(stored.numpy(), classes=CLASSES, mode="RGB"),
        stored,
        labels=labels,
        texts=texts if captions else None,
    )


def built(pictures: ArrayPictures, **sizes: object) -> Clip:
    assert pictures.texts is not None
    return ClipSizes(**{**vars(SIZES), **sizes}).build(pictures.spec, pictures.texts, seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tower", "optimizer", "steps", "agree"),
    [("conv", "muon", 50, 0.0), ("conv", "muon", 40, 1.0), ("vit", "adamw", 110, 0.0)],
)
def test_a_toy_is_learned_whole_in_both_languages(tower: str, optimizer: str, steps: int, agree: float) -> None:
    pictures, apart = squares(128, 1), squares(64, 2)
    clip = built(pictures)
    if tower == "vit":
        clip.image = VisionTransformer(channels=3, vector_width=16, width=16, depth=1, heads=1, patch=4)
    pairs, held_out = Captioned.of(pictures), Captioned.of(apart)
    rate = 4e-3 if optimizer == "adamw" else None
    how = ClipTraining(steps=steps, batch=24, optimizer=optimizer, rate=rate, agree=agree, augment=0.02)
    trained = train_clip(clip, pairs, held_out, how=how)
    images, _ = embed(clip, held_out)
    names = [f"a {c.split()[0]} square on the {c.split()[1]}" for c in CLASSES]
    assert apart.labels is not None
    assert zero_shot(clip, images, apart.labels, names, templates=["{class}"]).rate.value == 1.0
    japanese = [f"{SIDES[c.split()[1]]}に{JAPANESE[c.split()[0]]}" for c in CLASSES]
    assert zero_shot(clip, images, apart.labels, japanese, templates=["{class}"]).rate.value == 1.0
    found = retrieval(
        images, [several[0] for several in held_out.texts], clip.embed_texts([s[0] for s in held_out.texts])
    )
    assert (found.texts, found.to_text[1].value, found.to_picture[1].value) == (8, 1.0, 1.0)
    assert trained.measured_on == "held-out"
    figures = measure_clip(clip, images, [s[0] for s in held_out.texts], labels=apart.labels, names=CLASSES)
    assert figures.gaps["linear"].cosine > figures.gaps["none"].cosine
    assert float(figures.own.mean()) > float(figures.others.mean())


def test_the_sigmoid_loss_learns_too() -> None:
    pictures = squares(96, 1)
    clip = built(pictures, loss="sigmoid")
    how = ClipTraining(steps=40, batch=16, rate=6e-3, augment=0.0)
    trained = train_clip(clip, Captioned.of(pictures), None, how=how)
    measured = [record["held_out_loss"] for record in trained.history if "held_out_loss" in record]
    assert measured[-1] < 0.6 * measured[0]
    assert trained.best > 5


def test_equal_steps_give_equal_weights_and_another_seed_others() -> None:
    pictures = squares(40, 1)

    def weights(seed: int) -> Tensor:
        clip = built(pictures)
        trained = train_clip(clip, Captioned.of(pictures), None, how=ClipTraining(steps=4, batch=8, seed=seed))
        assert trained.measured_on == "training"
        return torch.cat([p.flatten() for p in trained.clip.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_every_row_comes_once_before_any_comes_again() -> None:
    rows = order(torch.arange(21), 7, 3)
    for part in rows.split(7):
        assert sorted(part.tolist()) == list(range(7))
    assert torch.equal(order(torch.arange(10, 14), 7, 3), rows[10:14])
    assert not torch.equal(rows[:7], rows[7:14])


def test_each_text_of_a_picture_is_picked_equally_often() -> None:
    pairs = Captioned.of(squares(8, 1))
    dice = (torch.arange(1000) + 0.5) / 1000
    counts = Counter(pairs.pick(torch.zeros(1000, dtype=torch.int64), dice))
    assert sorted(counts.values()) == [500, 500]


def test_two_texts_of_a_picture_differ_and_every_pair_of_them_comes() -> None:
    pictures = squares(8, 1)
    own = tuple(tuple(f"text {k} of {row}" for k in range(3)) for row in range(7))
    pairs = dataclasses.replace(Captioned.of(pictures), texts=(*own, ("alone",)))
    dice = torch.rand((3000, 2), generator=torch.Generator().manual_seed(0))
    first, second = pairs.pick_two(torch.zeros(3000, dtype=torch.int64), dice)
    counts = Counter(zip(first, second, strict=True))
    assert len(counts) == 6
    assert all(a != b for a, b in counts)
    assert min(counts.values()) > 0.8 * 500
    assert pairs.pick_two(torch.tensor([7]), dice[:1]) == (["alone"], ["alone"])


def test_a_second_text_of_each_picture_adds_what_the_docstring_says() -> None:
    pictures = squares(12, 1)
    clip = built(pictures).eval()
    assert pictures.texts is not None
    x = pictures.spec.to_model(pictures.read(range(8)))
    english, japanese = (clip.text.tokens([str(pictures.texts[i][k]) for i in range(8)]) for k in (0, 1))
    images, texts = clip(x, english)
    twins = clip(x, japanese)[1]
    never = torch.eye(8, dtype=torch.bool)
    each = [clip.loss(clip.logits(images, other), never) for other in (texts, twins)]
    between = clip.loss(clip.logits(texts, twins), never)
    found = clip.batch_loss(x, english, second=(japanese, None), agree=0.7)
    torch.testing.assert_close(found, 0.5 * sum(each) + 0.7 * between)
    assert torch.equal(clip.batch_loss(x, english), each[0])


def test_a_picture_owns_all_its_texts_whichever_was_picked() -> None:
    pairs = Captioned.of(squares(16, 1))
    rows = torch.tensor([0, 8, 1])
    texts = [pairs.texts[0][0], pairs.texts[8][1], pairs.texts[1][0]]
    assert shared([frozenset(pairs.texts[row]) for row in rows], texts).tolist() == [
        [True, True, False],
        [True, True, False],
        [False, False, True],
    ]


def test_pictures_without_captions_are_left_out_and_all_without_refused() -> None:
    whole = squares(8, 1)
    texts = [list(several) if row % 2 else [] for row, several in enumerate(whole.texts or ())]
    half = ArrayPictures(whole.spec, whole.read(range(8)), labels=whole.labels, texts=texts)
    pairs = Captioned.of(half)
    assert len(pairs) == 4
    assert torch.equal(pairs.read(torch.tensor([1])), whole.spec.to_model(whole.read([3])))
    assert pairs.labels is not None
    assert pairs.labels.tolist() == [1, 3, 5, 7]
    with pytest.raises(ValueError, match="no captions"):
        Captioned.of(squares(4, 1, captions=False))


def test_numbers_that_stay_not_finite_stop_the_training() -> None:
    pictures = squares(16, 1)
    clip = built(pictures)
    clip.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        train_clip(clip, Captioned.of(pictures), None, how=ClipTraining(steps=50, batch=8))


def test_one_bad_step_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = squares(16, 1)
    clip = built(pictures)
    true, calls = clip.batch_loss, []

    def sometimes(*given: Any, **more: Any) -> Tensor:
        calls.append(1)
        return true(*given, **more) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(clip, "batch_loss", sometimes)
    trained = train_clip(clip, Captioned.of(pictures), None, how=ClipTraining(steps=6, batch=8))
    assert trained.skipped == 1
    assert all(bool(p.isfinite().all()) for p in clip.parameters())


def test_held_out_loss_of_an_ignorant_model_is_that_of_chance() -> None:
    pictures = squares(64, 1)
    clip = built(pictures)
    clip.log_scale.data.fill_(0.0)
    torch.nn.init.zeros_(clip.image.head.weight)  # type: ignore[arg-type,union-attr]
    # All logits are 0, and of 64 pictures each caption's 8 are no rivals: 56 rivals and itself.
    assert held_out_loss(clip, Captioned.of(pictures)) == pytest.approx(torch.tensor(57.0).log().item(), abs=1e-5)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"minutes": 0.0}, {"batch": 1}, {"rate": 0.0}, {"augment": 0.7}):
        with pytest.raises(ValueError, match="got|least"):
            ClipTraining(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'conv'"):
        ClipSizes(tower="conf")
    with pytest.raises(ValueError, match="at least 2"):
        train_clip(built(squares(8, 1)), Captioned.of(squares(1, 1)), None, how=ClipTraining(steps=1))


def test_texts_are_measured_by_language_where_all_pictures_have_them() -> None:
    assert kinds_of_texts(squares(3, 1).texts or ()) == {"en": 0, "ja": 1}
    assert kinds_of_texts([["a"], ["b", "c"]]) == {"first caption": 0}


def test_templates_of_unseen_words_are_left_out() -> None:
    clip = built(squares(16, 1))
    assert known_templates(clip, ("{class}", "a {class}", "a picture of a {class}")) == ("{class}", "a {class}")
    assert [bare_name(n) for n in ("074_rose", "fire-lily", "12")] == ["rose", "fire lily", "12"]


def test_spaced_rows_are_few_different_and_in_order() -> None:
    rows = spaced(100, 10).tolist()
    assert (len(rows), rows) == (10, sorted(set(rows)))
    assert spaced(3, 10).tolist() == [0, 1, 2]
