"""Texts as conditions: what stands in a text decides, and nothing else."""

import pytest
import torch

from kakusan.conditioning import Condition, Conditioner, TokenSet
from kakusan.encoders.conditioner import TOKENS, TextConditioner
from kakusan.encoders.text import TextTower
from kakusan.encoders.tokenizer import Tokenizer
from kakusan.noise import Draws
from kakusan.specs import from_spec, to_spec

TEXTS = ["a red flower with five petals", "a blue flower", "五枚の花びらの赤い花", ""]


def made(**options: object) -> TextConditioner:
    torch.manual_seed(0)
    tower = TextTower(
        tokenizer=Tokenizer.train(TEXTS, size=300).json, width=32, depth=2, heads=2, length=24, vector_width=16
    )
    return TextConditioner(encoder=tower, width=12, **options).eval()  # type: ignore[arg-type]


def test_each_text_alone_as_in_a_batch() -> None:
    conditioner = made()
    whole = conditioner(conditioner.asked(TEXTS))
    assert whole.vector is not None
    assert whole.vector.shape == (4, 12)
    for row, text in enumerate(TEXTS):
        alone = conditioner(conditioner.asked([text]))
        length = alone.tokens[TOKENS].values.shape[1]
        torch.testing.assert_close(alone.vector[0], whole.vector[row])  # type: ignore[index]
        torch.testing.assert_close(alone.tokens[TOKENS].values[0], whole.tokens[TOKENS].values[row, :length])
        mask = whole.tokens[TOKENS].mask
        assert mask is not None
        assert int(mask[row].sum()) == length


def test_the_condition_changes_with_a_word() -> None:
    conditioner = made()
    red, blue = (conditioner(conditioner.asked([f"a {word} flower"])).vector for word in ("red", "blue"))
    assert float((red - blue).detach().abs().max()) > 1e-3  # type: ignore[operator]


def test_nothing_is_the_empty_text() -> None:
    conditioner = made()
    null, empty = conditioner.null(2), conditioner(conditioner.asked(["", ""]))
    for a, b in zip(null.tensors(), empty.tensors(), strict=True):
        assert torch.equal(a, b)


def test_dropped_samples_get_the_empty_text() -> None:
    conditioner = made(dropout=0.5)
    ids = conditioner.asked(TEXTS[:3])
    kept = conditioner.drop(ids, torch.tensor([0.2, 0.7, 0.49], dtype=torch.float64))
    assert torch.equal(kept[1], ids[1])
    assert torch.equal(kept[[0, 2]], conditioner.asked(["", ""]))


def test_without_dropout_there_is_no_null() -> None:
    with pytest.raises(ValueError, match="never learned 'no text'"):
        made(dropout=0.0).null()
    with pytest.raises(ValueError, match="probability"):
        made(dropout=1.0)


def test_training_samples_without_a_caption_have_the_empty_text() -> None:
    conditioner = made()
    raw = conditioner.raw(torch.zeros(3, 1, 4, 4), None, Draws(torch.zeros(3).long(), torch.arange(3)))
    assert torch.equal(raw, conditioner.asked(["", "", ""]))


def test_weights_move_tokens_from_the_empty_text() -> None:
    conditioner = made()
    plain, loud, silent = (
        conditioner(conditioner.asked([text])).tokens[TOKENS].values
        for text in ("a red flower", "a (red:2) flower", "a (red:0) flower")
    )
    word = next(word for word in conditioner.words("a (red:2) flower") if word.text == "red")
    places = list(word.tokens)
    rest = [k for k in range(plain.shape[1]) if k not in places]
    assert torch.equal(loud[:, rest], plain[:, rest])
    torch.testing.assert_close(loud[:, places] - plain[:, places], plain[:, places] - silent[:, places])
    assert float((loud[:, places] - plain[:, places]).detach().abs().max()) > 1e-3
    assert conditioner.notes("a (red flower")[0] == "a bracket without a partner is plain text"


def test_classes_are_refused() -> None:
    conditioner = made()
    with pytest.raises(ValueError, match="trained on texts, not on classes"):
        conditioner(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="ask it with a text, got 3"):
        conditioner.asked(["a", 3])


def test_a_frozen_encoder_is_not_trained() -> None:
    conditioner = made(frozen=True).train()
    assert not conditioner.encoder.training
    assert not any(p.requires_grad for p in conditioner.encoder.parameters())
    assert all(p.requires_grad for p in conditioner.project.parameters())


def test_it_is_described_by_its_spec() -> None:
    conditioner = made()
    again = from_spec(to_spec(conditioner), Conditioner)
    again.load_state_dict(conditioner.state_dict())
    assert isinstance(again, TextConditioner)
    a, b = (c.eval()(c.asked(TEXTS)) for c in (conditioner, again))
    assert torch.equal(a.vector, b.vector)  # type: ignore[arg-type]


def test_texts_of_different_lengths_combine() -> None:
    long = Condition(tokens={"text": TokenSet(torch.ones(2, 5, 3), torch.ones(2, 5, dtype=torch.bool))})
    short = Condition(tokens={"text": TokenSet(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))})
    both = short.cat(long).tokens["text"]
    assert both.values.shape == (3, 5, 3)
    assert both.mask is not None
    assert both.mask.sum(1).tolist() == [2, 5, 5]
    assert float(both.values[0, 2:].abs().sum()) == 0.0
    bare = Condition(tokens={"text": TokenSet(torch.ones(1, 2, 3))})
    with pytest.raises(ValueError, match="need masks"):
        bare.cat(Condition(tokens={"text": TokenSet(torch.ones(1, 3, 3))}))
