"""An encoder of others that answers from a file: the same features, and its network is not asked."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from kakusan.config import TextSettings
from kakusan.encoders.cached import encoder_hash, open_texts, remember
from kakusan.encoders.pretrained import PretrainedText, open_pretrained
from kakusan.train.texts import reader_for

TEXTS = ["a red flower", "blue", "a red flower", "round petals " * 9]
Folder = tuple[Path, Any]


@pytest.fixture(params=["clip", "t5"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)[0]


def test_what_is_remembered_is_what_was_computed(folder: Path, tmp_path: Path) -> None:
    encoder = open_pretrained(folder, length=12)
    ids = encoder.tokens([*TEXTS, ""])
    wanted = encoder(ids)
    remember(encoder, TEXTS, tmp_path, precision="float32", batch=2)
    again = open_pretrained(folder, length=12)
    kept = remember(again, TEXTS, tmp_path, precision="float32")
    assert kept.distinct == 4
    # Whole rows, shortened rows, and rows of another order.
    short = ids[1:2, : int(wanted.mask[1].sum())]
    for asked, rows in ((ids, [0, 1, 2, 3, 4]), (short, [1]), (ids[[4, 0]], [4, 0])):
        found = again(asked)
        length = asked.shape[1]
        assert torch.equal(found.mask, wanted.mask[rows, :length])
        torch.testing.assert_close(found.values, wanted.values[rows, :length], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.vector, wanted.vector[rows], atol=1e-6, rtol=1e-5)
    assert not again.loaded
    assert not copy.deepcopy(again).loaded
    torch.testing.assert_close(copy.deepcopy(again)(ids).vector, wanted.vector, atol=1e-6, rtol=1e-5)
    # A text that is not known is computed, and all that come with it.
    mixed = again.tokens(["a red flower", "five"])
    torch.testing.assert_close(again(mixed).values, encoder(mixed).values, atol=1e-6, rtol=1e-5)
    assert again.loaded


def test_files_belong_to_an_encoder_and_not_to_where_it_lies(folder: Path, tmp_path: Path) -> None:
    encoder = open_pretrained(folder, length=12)
    first = open_texts(encoder, TEXTS, tmp_path)
    assert encoder_hash(encoder.moved("/elsewhere")) == encoder_hash(encoder)
    # Known features need neither the folder nor the network.
    gone = encoder.moved("/elsewhere")
    assert torch.equal(open_texts(gone, TEXTS, tmp_path).read([1]).values, first.read([1]).values)
    assert not gone.loaded
    keys = {
        encoder_hash(open_pretrained(folder, **how))
        for how in ({}, {"layer": -2}, {"length": 11}, {"precision": "bfloat16"})
    }
    assert len(keys) == 4


def test_the_settings_of_a_run_choose_layer_and_precision(clip: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kakusan.train.texts.remember", lambda *_: None)
    chosen = TextSettings(encoder=str(clip[0]), read_layer=-2, precision="bfloat16")
    reader, frozen = reader_for(chosen, [["a"]])
    assert isinstance(reader, PretrainedText)
    assert (reader.layer, reader.precision, frozen) == (-2, "bfloat16", True)
    # What is remembered of one layer is never given for another.
    assert encoder_hash(reader) != encoder_hash(open_pretrained(clip[0], precision="bfloat16"))
    with pytest.raises(ValueError, match="leave out --text-read-layer"):
        reader_for(TextSettings(encoder="own", read_layer=-2), [["a"]])
