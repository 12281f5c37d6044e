"""Kept features: the same as fresh ones, each text once, never half a file, never what is out of date."""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from kakusan.encoders.base import TextEncoder, TextFeatures
from kakusan.encoders.cached import CachedTexts, encoder_hash, open_texts
from kakusan.specs import register

TEXTS = ["red", "a blue flower", "red", "", "赤い花 🌸", "red"]


@register
class CountingLetters(TextEncoder):
    """A letter is a token of a learned table; counts the texts that it was asked for."""

    pad = 0

    def __init__(self, *, width: int = 6, length: int = 20) -> None:
        super().__init__()
        self.width, self.vector_width, self.length = width, 3, length
        self.table = nn.Embedding(100, width)
        self.head = nn.Linear(width, 3)
        self.dropout = nn.Dropout(0.5)
        self.asked = self.columns = 0

    def tokens(self, texts: Sequence[str]) -> Tensor:
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            numbers = [*(1 + ord(letter) % 98 for letter in text[: self.length - 1]), 99]
            row[: len(numbers)] = torch.tensor(numbers)
        return ids

    def forward(self, ids: Tensor) -> TextFeatures:
        self.asked += len(ids)
        self.columns += ids.numel()
        mask = ids != 0
        values = self.dropout(self.table(ids)) * mask[..., None]
        return TextFeatures(values, mask, self.head(values.sum(1)))


def fresh(encoder: TextEncoder, texts: Sequence[str]) -> TextFeatures:
    with torch.no_grad():
        return copy.deepcopy(encoder).eval()(encoder.tokens(texts))


def test_kept_features_are_the_fresh_ones(tmp_path: Path) -> None:
    encoder = CountingLetters()
    wanted = fresh(encoder, TEXTS)
    kept = open_texts(encoder, TEXTS, tmp_path, precision="float32", batch=2)
    assert encoder.training
    assert (len(kept), kept.distinct) == (6, 4)
    assert encoder.asked == 4
    # Two batches, each as long as its longest text.
    assert encoder.columns == 2 * len("red.") + 2 * len("a blue flower.")
    found = kept.read(range(6))
    assert kept.length == found.mask.shape[1] == len("a blue flower") + 1
    assert torch.equal(found.mask, wanted.mask[:, : kept.length])
    torch.testing.assert_close(found.values, wanted.values[:, : kept.length], atol=0, rtol=0)
    torch.testing.assert_close(found.vector, wanted.vector, atol=1e-6, rtol=1e-6)
    # In any order, any number of times, one alone.
    mixed = kept.read(torch.tensor([4, 0, 4]))
    for row, index in enumerate((4, 0, 4)):
        assert torch.equal(mixed.values[row], found.values[index])
        assert torch.equal(mixed.vector[row], found.vector[index])
        assert torch.equal(mixed.mask[row], found.mask[index])
    nothing = kept.empty(2)
    assert torch.equal(nothing.values[1], found.values[3])
    assert kept.read([]).values.shape == (0, kept.length, 6)
    assert kept.read([1], "meta").values.device.type == "meta"
    for wrong in ([6], [-1]):
        with pytest.raises(ValueError, match="there are 6 texts"):
            kept.read(wrong)


def test_half_precision_takes_half_the_room(tmp_path: Path) -> None:
    encoder = CountingLetters()
    sizes = {}
    for precision in ("float16", "float32"):
        kept = open_texts(encoder, TEXTS, tmp_path, precision=precision)
        found = kept.read(range(6))
        assert found.values.dtype == found.vector.dtype == torch.float32
        torch.testing.assert_close(found.vector, fresh(encoder, TEXTS).vector, atol=2e-2, rtol=1e-3)
        with safe_open(str(kept.path), "pt") as file:
            sizes[precision] = file.get_tensor("values").nbytes
            # Real tokens of different texts, and no more.
            assert file.get_slice("values").get_shape()[0] == sum(len(text) + 1 for text in set(TEXTS))
    assert sizes["float32"] == 2 * sizes["float16"]
    with pytest.raises(ValueError, match="float16 or float32, got 'int8'"):
        open_texts(encoder, TEXTS, tmp_path, precision="int8")


def test_nothing_is_computed_twice_and_nothing_stale_is_used(tmp_path: Path) -> None:
    encoder = CountingLetters()
    said: list[str] = []
    first = open_texts(encoder, TEXTS, tmp_path, say=said.append)
    assert "4 different texts, once" in said[0]
    assert "kept in" in said[1]
    again = open_texts(encoder, TEXTS, tmp_path, say=said.append)
    assert (encoder.asked, len(said)) == (4, 2)
    assert torch.equal(again.read([1]).values, first.read([1]).values)
    # Another order of texts, another text, another weight, another length: each is another file.
    open_texts(encoder, TEXTS[::-1], tmp_path)
    open_texts(encoder, [*TEXTS, "new"], tmp_path)
    with torch.no_grad():
        encoder.table.weight[5] += 1.0
    changed = open_texts(encoder, TEXTS, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert changed.key != first.key
    assert encoder_hash(CountingLetters(length=9)) != encoder_hash(CountingLetters(length=10))


@pytest.mark.parametrize("harm", ["cut", "junk", "other", "empty"])
def test_a_damaged_file_is_made_again(tmp_path: Path, harm: str) -> None:
    encoder = CountingLetters()
    path = open_texts(encoder, TEXTS, tmp_path).path
    data = path.read_bytes()
    other = open_texts(encoder, ["x"], tmp_path / "other").path.read_bytes()
    path.write_bytes({"cut": data[:-5], "junk": b"\x80" * 99, "other": other, "empty": b""}[harm])
    said: list[str] = []
    kept = open_texts(encoder, TEXTS, tmp_path, say=said.append)
    assert "are not used" in said[0]
    assert path.read_bytes() == data
    assert len(kept) == 6


def test_tables_that_do_not_fit_are_damage(tmp_path: Path) -> None:
    kept = open_texts(CountingLetters(), TEXTS, tmp_path)
    data = bytearray(kept.path.read_bytes())
    # The last tables are `starts` and `rows`.
    data[-8 * 6 - 8 : -8 * 6] = (7).to_bytes(8, "little")
    kept.path.write_bytes(data)
    with pytest.raises(ValueError, match="do not fit"):
        CachedTexts(kept.path, kept.key)


@register
class Broken(CountingLetters):
    """Gives up, or gives infinity, at one letter."""

    def __init__(self, value: float | None) -> None:
        super().__init__()
        self.value = value

    def forward(self, ids: Tensor) -> TextFeatures:
        found = super().forward(ids)
        hit = ids == 1 + ord("z") % 98
        if self.value is None and hit.any():
            raise KeyboardInterrupt
        return (
            found
            if self.value is None
            else TextFeatures(torch.where(hit[..., None], self.value, found.values), found.mask, found.vector)
        )


@pytest.mark.parametrize(
    ("value", "precision", "advice"),
    [
        (float("nan"), "float32", "the encoder itself"),
        (1e6, "float16", "keep them in float32"),
        (float("inf"), "float16", "the encoder itself"),
    ],
)
def test_what_is_not_finite_is_refused(tmp_path: Path, value: float, precision: str, advice: str) -> None:
    with pytest.raises(ValueError, match=rf"the text 'zoo' are not finite in {precision}: {advice}"):
        open_texts(Broken(value), ["red", "zoo"], tmp_path, precision=precision)
    assert list(tmp_path.iterdir()) == []
    if value == 1e6:
        assert len(open_texts(Broken(value), ["red", "zoo"], tmp_path, precision="float32")) == 2


def test_whoever_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        open_texts(Broken(None), ["red"] * 3 + ["blue", "zoo"], tmp_path, batch=1)
    assert list(tmp_path.iterdir()) == []


def test_another_process_opens_the_file_anew(tmp_path: Path) -> None:
    kept = open_texts(CountingLetters(), TEXTS, tmp_path)
    kept.read([0])
    copied = copy.copy(kept)
    assert "_opened" not in copied.__dict__
    assert torch.equal(copied.read([1]).values, kept.read([1]).values)


def test_the_usual_place_and_strange_texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path))
    kept = open_texts(CountingLetters(), ["\ud83c half", "\x00", "x" * 10_000])
    assert kept.path.parent == tmp_path / "texts"
    assert kept.length == 20
    assert open_texts(CountingLetters(), []).empty().mask.sum() == 1
    header = kept.path.read_bytes()[8:4096]
    assert json.loads(header)["__metadata__"]["key"] == kept.key
    assert os.path.basename(kept.path).startswith(kept.key[:40])
