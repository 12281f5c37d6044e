"""A text and a picture to start from: one condition, dropped together and each by itself."""

import pytest
import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.encoders.conditioner import TOKENS, TextConditioner
from kakusan.encoders.text import TextTower
from kakusan.encoders.tokenizer import Tokenizer
from kakusan.noise import Draws, Stream
from kakusan.pairs import PAIRS, Given, PairConditioner, Start
from kakusan.specs import from_spec, to_spec

SHAPE = (3, 8, 8)
TEXTS = ["a red flower", "a blue flower", "赤い花"]


def made(pair: str = "upscale-2", *, noise: float = 0.4, dropout: float = 0.1) -> PairConditioner:
    torch.manual_seed(0)
    tower = TextTower(
        tokenizer=Tokenizer.train(TEXTS, size=300).json, width=32, depth=1, heads=2, length=24, vector_width=16
    )
    texts = TextConditioner(encoder=tower, width=6, dropout=dropout)
    return PairConditioner(pair=PAIRS[pair], shape=SHAPE, labels=texts, width=6, noise=noise, dropout=dropout).eval()


def draws(count: int) -> Draws:
    rows = torch.arange(count)
    return Draws(torch.zeros_like(rows), rows, Stream.PAIR)


def raw_of(conditioner: PairConditioner, texts: list[str]) -> Start:
    torch.manual_seed(1)
    x0 = torch.rand(len(texts), *SHAPE) * 2.0 - 1.0
    return conditioner.raw(x0, None, draws(len(texts)), text=conditioner.asked(texts))


def same(a: Condition, b: Condition) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.tensors(), b.tensors(), strict=True))


def test_it_is_the_text_and_the_picture_side_by_side() -> None:
    both = made()
    assert both.reads_texts
    assert both.classes == ()
    raw = raw_of(both, TEXTS)
    cond = both(raw)
    texts = both.asking
    alone = texts(texts.asked(TEXTS))
    assert torch.equal(cond.tokens[TOKENS].values, alone.tokens[TOKENS].values)
    assert torch.equal(cond.spatial, raw.spatial)  # type: ignore[arg-type]
    # The vector is that of the text and, beside it, the level of the noise.
    level = both(Start(raw.spatial, raw.level, texts.nothing(3))).vector - texts.null(3).vector  # type: ignore[operator]
    assert torch.allclose(cond.vector, alone.vector + level, atol=1e-6)  # type: ignore[operator, arg-type]


def test_what_is_dropped_together_is_nothing_and_each_goes_alone() -> None:
    both = made(dropout=0.2)
    raw = raw_of(both, TEXTS * 4)
    left = both.drop(raw, (torch.arange(12, dtype=torch.float64) + 0.5) / 12 * 0.6)
    empty = both.asked([""])
    no_text = (left.labels == empty).all(1)
    no_picture = left.spatial.flatten(1).abs().sum(1) == 0.0
    # 0 to 0.2 both, to 0.3 the text, to 0.4 the picture, then nothing is dropped.
    assert no_text.tolist() == [True] * 6 + [False] * 6
    assert no_picture.tolist() == [True] * 4 + [False] * 2 + [True] * 2 + [False] * 4
    assert same(both(both.null_raw(raw)), both.null(12))
    null, dropped = both.null(), both(left)
    length = null.tokens[TOKENS].values.shape[1]
    assert torch.allclose(dropped.vector[:4], null.vector, atol=1e-6)  # type: ignore[index, arg-type]
    assert torch.allclose(dropped.tokens[TOKENS].values[:4, :length], null.tokens[TOKENS].values, atol=1e-6)
    assert not bool(dropped.tokens[TOKENS].mask[:4, length:].any())  # type: ignore[index]


def test_a_text_alone_is_asked_as_of_a_model_of_texts() -> None:
    both = made()
    alone = both(both.asked(TEXTS))
    assert alone.spatial is not None
    assert float(alone.spatial.abs().sum()) == 0.0
    spoken = both.start(Given(raw_of(both, TEXTS[:1]).spatial), both.asked(TEXTS), torch.tensor([0, 1, 2]))
    assert torch.equal(spoken.tokens[TOKENS].values, alone.tokens[TOKENS].values)
    quiet = both.start(Given(raw_of(both, TEXTS[:1]).spatial), None, torch.tensor([0]))
    assert torch.equal(quiet.tokens[TOKENS].values, both.null().tokens[TOKENS].values)
    louder = both(both.asked(["a (red:2) flower"]))
    assert not torch.equal(louder.tokens[TOKENS].values, both(both.asked(["a red flower"])).tokens[TOKENS].values)
    with pytest.raises(ValueError, match="needs a class or a text"):
        made(dropout=0.0).start(Given(raw_of(both, TEXTS[:1]).spatial), None, torch.tensor([0]))


def test_it_is_stored_whole() -> None:
    both = made("masked", noise=0.0)
    again = from_spec(to_spec(both), PairConditioner)
    again.load_state_dict(both.state_dict())
    raw = raw_of(both, TEXTS)
    assert same(both(raw), again.eval()(raw))


def gradients(conditioner: PairConditioner, raw: Start) -> list[Tensor | None]:
    conditioner.zero_grad()
    sum(x.float().square().sum() for x in conditioner(raw).tensors() if x.is_floating_point()).backward()  # type: ignore[union-attr]
    return [p.grad for p in conditioner.asking.parameters()]


def test_the_tower_learns_along_with_the_model() -> None:
    both = made()
    assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in gradients(both, raw_of(both, TEXTS))[:3])
