"""Pairs: what each is made of, that it is the sample's own, and the conditioner that joins it with a class."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kakusan.conditioning import ClassLabels
from kakusan.noise import Draws, Stream
from kakusan.operators import Downsample, Gray
from kakusan.pairs import PAIRS, Brought, Edges, Given, Masked, Noisy, Pair, PairConditioner, Shrunk, Sketch, Start
from kakusan.pairs.conditioner import waves
from kakusan.specs import from_spec, to_spec

SHAPE = (3, 8, 12)
MADE = {name: pair for name, pair in PAIRS.items() if not pair.brought}


def draws(numbers: object, seed: int = 0, stream: Stream = Stream.PAIR) -> Draws:
    rows = torch.as_tensor(numbers, dtype=torch.int64)
    return Draws(torch.full_like(rows, seed), rows, stream)


def pictures(count: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(count, *shape) * 2.0 - 1.0


@pytest.mark.parametrize("name", list(MADE))
def test_a_pair_has_the_shapes_it_says(name: str) -> None:
    pair, x0 = MADE[name], pictures(5)
    y, known = pair.made(x0, draws(range(5)))
    assert tuple(y.shape[1:]) == pair.expects(SHAPE)
    spatial = pair(x0, draws(range(5)))
    assert tuple(spatial.shape) == (5, pair.channels(SHAPE), *SHAPE[1:])
    assert torch.equal(spatial, pair.spatial(y, SHAPE, known))
    assert set(spatial[:, -1].unique().tolist()) <= {0.0, 1.0}
    assert tuple(pair.shown(spatial, SHAPE).shape) == tuple(x0.shape)
    assert from_spec(to_spec(pair), Pair) == pair  # type: ignore[type-abstract]


@pytest.mark.parametrize("name", list(MADE))
def test_a_sample_has_its_pair_alone_and_in_any_batch(name: str) -> None:
    pair, x0 = MADE[name], pictures(4)
    whole = pair(x0, draws([3, 9, 4, 7], seed=5))
    alone = pair(x0[2:3], draws([4], seed=5))
    assert torch.allclose(whole[2:3], alone, atol=1e-6)
    assert torch.equal(whole[:, -1], pair(x0, draws([3, 9, 4, 7], seed=5))[:, -1])


def test_shrinking_is_undone_by_enlarging_as_far_as_can_be() -> None:
    x0 = pictures(3)
    operator = Downsample(SHAPE, 4)
    y, _ = Shrunk(factor=4).made(x0, draws(range(3)))
    assert torch.allclose(y, operator(x0))
    assert torch.allclose(operator(Shrunk(factor=4)(x0, draws(range(3)))[:, :-1]), y, atol=1e-5)
    with pytest.raises(ValueError, match="divide every side of 8 x 12"):
        Shrunk(factor=5).check(SHAPE)


@pytest.mark.parametrize("name", ["upscale-2", "upscale-4", "gray"])
def test_results_can_be_brought_to_what_was_given(name: str) -> None:
    pair, x0 = PAIRS[name], pictures(3)
    y, _ = pair.made(pictures(3), draws(range(3)))
    fitted = pair.fitted(x0, y)
    assert torch.allclose(pair.made(fitted, draws(range(3)))[0], y, atol=1e-5)
    # The nearest such: what was added has no part that is not measured.
    again = pair.fitted(x0, pair.made(x0, draws(range(3)))[0])
    assert torch.allclose(again, x0, atol=1e-5)
    others = pair.fitted(pictures(3), y)
    assert float((fitted - x0).square().sum()) <= float((others - x0).square().sum())
    with pytest.raises(ValueError, match="leave --exact out"):
        Edges().fitted(x0, y)


def test_gray_is_that_of_pictures_and_edges_are_steep_places() -> None:
    x0 = pictures(2)
    assert torch.allclose(PAIRS["gray"](x0, draws([0, 1]))[:, :1], Gray(SHAPE)(x0))
    with pytest.raises(ValueError, match="gray already"):
        PAIRS["gray"].check((1, 8, 8))
    # A ramp of slope 1/16 of the range a pixel is 4/16 of the way from black to white.
    ramp = (torch.arange(12) / 8.0 - 1.0).expand(1, 3, 8, 12)
    edges = Edges(gain=4.0)(ramp, draws([0]))[0, 0, :, 1:-1]
    assert torch.allclose(edges, torch.tensor(2.0 * 4.0 / 16.0 - 1.0), atol=1e-5)
    assert torch.allclose(Edges()(torch.zeros(1, 3, 8, 8), draws([0]))[:, 0], torch.tensor(-1.0))
    flat = Sketch()(torch.full((1, 3, 8, 8), 0.4), draws([0]))[:, 0]
    assert torch.allclose(flat, torch.tensor(1.0), atol=1e-5)


@given(st.integers(0, 2**40), st.sampled_from([(9,), (8, 12), (32, 32), (4, 5, 6)]))
def test_holes_hide_something_and_seldom_everything(seed: int, size: tuple[int, ...]) -> None:
    known = Masked()(torch.zeros(8, 1, *size), draws(range(8), seed))[:, -1].flatten(1)
    assert bool((known.mean(1) < 1.0).all())
    assert bool((known.sum(1) > 0.0).any())


def test_boxes_have_the_sides_asked_for() -> None:
    known = Masked(least=0.5, most=0.5)(torch.zeros(400, 1, 32, 32), draws(range(400)))[:, -1]
    hidden = (1.0 - known).flatten(1).sum(1)
    boxes = (hidden == 256.0).float().mean()
    # Half of the holes are boxes, within four standard errors.
    assert abs(float(boxes) - 0.5) < 4.0 * 0.5 / math.sqrt(400)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"starts from pictures of shape \(3, 2, 3\)"):
        Shrunk(factor=4).spatial(pictures(1), SHAPE)
    with pytest.raises(ValueError, match="takes no mask"):
        PAIRS["gray"].spatial(pictures(1, (1, 8, 12)), SHAPE, torch.ones(1, 1, 8, 12))
    with pytest.raises(ValueError, match="needs a mask"):
        Masked().spatial(pictures(1), SHAPE)
    with pytest.raises(ValueError, match="the mask must be"):
        Masked().spatial(pictures(1), SHAPE, torch.ones(1, 1, 8, 8))
    with pytest.raises(ValueError, match="bring it yourself"):
        Brought()(pictures(1), draws([0]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Given(torch.zeros(1, 4, 8, 12), 1.5)
    for wrong in (lambda: Masked(least=0.8, most=0.2), lambda: Edges(gain=0.0), lambda: Sketch(std=-1.0)):
        with pytest.raises(ValueError, match="positive|fractions"):
            wrong()


def conditioner(pair: Pair, *, classes: bool = True, noise: float = 0.4, dropout: float = 0.1) -> PairConditioner:
    labels = ClassLabels(classes=("red", "blue"), width=6, dropout=dropout) if classes else None
    width = 6 if classes or noise else 0
    return PairConditioner(pair=pair, shape=SHAPE, labels=labels, width=width, noise=noise, dropout=dropout)


def test_the_conditioner_is_stored_whole() -> None:
    for made in (conditioner(PAIRS["upscale-2"]), conditioner(Masked(), classes=False, noise=0.0)):
        again = from_spec(to_spec(made), PairConditioner)
        again.load_state_dict(made.state_dict())
        assert (again.pair, again.shape, again.noise, again.classes) == (
            made.pair,
            made.shape,
            made.noise,
            made.classes,
        )
        x0, labels = pictures(3), torch.tensor([0, 1, 1]) if made.classes else None
        a, b = (c(c.raw(x0, labels, draws(range(3)))) for c in (made, again))
        assert all(torch.equal(p, q) for p, q in zip(a.tensors(), b.tensors(), strict=True))


def test_noise_on_the_condition_is_what_the_network_is_told() -> None:
    made = conditioner(PAIRS["blurred"], classes=False, noise=0.6)
    x0 = pictures(512)
    raw = made.raw(x0, None, draws(range(512)))
    clean = made.pair(x0, draws(range(512)))[:, :-1]
    s = raw.level.view(-1, 1, 1, 1)
    assert float(raw.level.min()) < 0.02
    assert 0.58 < float(raw.level.max()) <= 0.6
    found = (raw.spatial[:, :-1] - (1.0 - s * s).sqrt() * clean) / s
    assert abs(float(found.mean())) < 4.0 / math.sqrt(found.numel())
    assert abs(float(found.var()) - 1.0) < 4.0 * math.sqrt(2.0 / found.numel())
    told = made(raw).vector
    assert told is not None
    assert torch.allclose(told, made.level(waves(raw.level)))  # type: ignore[misc]
    # At sampling the user chooses; the same level and the same draw give the same condition.
    half = Given(made.pair(x0[:2], draws([0, 1])), 0.3)
    cond = made.start(half, None, torch.tensor([4, 5]))
    assert cond.spatial is not None
    assert torch.equal(cond.spatial[1:], made.start(half.part(slice(1, 2)), None, torch.tensor([5])).spatial)
    with pytest.raises(ValueError, match=r"noise of 0 to 0\.6"):
        made.start(Given(half.spatial, 0.7), None, torch.tensor([4, 5]))
    with pytest.raises(ValueError, match="nothing to undo"):
        conditioner(Noisy(), noise=0.0)


def test_the_dropout_plan_is_joint() -> None:
    made = conditioner(PAIRS["gray"], dropout=0.2)
    count = 4000
    raw = made.raw(pictures(1).expand(count, *SHAPE), torch.zeros(count, dtype=torch.int64), draws(range(count)))
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    left = made.drop(raw, uniform)
    assert isinstance(left, Start)
    assert left.labels is not None
    no_class = left.labels == 2
    no_picture = left.spatial.flatten(1).abs().sum(1) == 0.0
    assert int((no_class & no_picture).sum()) == 800
    assert int((no_class & ~no_picture).sum()) == 400
    assert int((~no_class & no_picture).sum()) == 400
    assert bool((left.level[no_picture] == 0.0).all())
    kept = ~no_picture
    assert torch.equal(left.spatial[kept], raw.spatial[kept])
    # What is dropped together is the null condition.
    null, dropped = made.null(), made(left)
    assert null.spatial is not None
    assert torch.equal(dropped.spatial[:1], null.spatial)  # type: ignore[index]
    assert torch.allclose(dropped.vector[:1], null.vector, atol=1e-6)  # type: ignore[index]
    without = conditioner(PAIRS["gray"], classes=False, dropout=0.2)
    left = without.drop(without.raw(pictures(10), None, draws(range(10))), (torch.arange(10) + 0.5) / 10)
    assert (left.spatial.flatten(1).abs().sum(1) == 0.0).tolist() == [True] * 2 + [False] * 8


def test_a_class_alone_and_a_picture_alone_are_conditions() -> None:
    made = conditioner(PAIRS["gray"])
    alone = made(torch.tensor([0, 1]))
    assert alone.spatial is not None
    assert float(alone.spatial.abs().sum()) == 0.0
    given_ = Given(made.pair(pictures(1), draws([0])))
    unknown = made.start(given_, None, torch.tensor([0, 1, 2]))
    assert unknown.batch == 3
    known = made.start(given_, torch.tensor([1]), torch.tensor([0]))
    assert unknown.vector is not None
    assert known.vector is not None
    assert made.labels is not None
    table = made.labels.table.weight
    assert torch.allclose(unknown.vector[0] - known.vector[0], table[2] - table[1], atol=1e-6)
    strict = conditioner(PAIRS["gray"], dropout=0.0)
    with pytest.raises(ValueError, match="needs a class"):
        strict.start(given_, None, torch.tensor([0]))
    with pytest.raises(ValueError, match="without condition dropout"):
        strict.null()
