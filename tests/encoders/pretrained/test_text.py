"""Text encoders of others: their features are those of the library they come from, padded or not; nothing is owned."""

import copy
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import tiny_networks
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kakusan.encoders.pretrained import PretrainedClipText, PretrainedT5, PretrainedText, open_pretrained
from kakusan.encoders.pretrained.held import on
from kakusan.specs import from_spec, to_spec

TEXTS = ["a red flower", "a blue flower with five round petals", "", "red"]
Folder = tuple[Path, Any]


@pytest.fixture(params=["clip", "t5"])
def both(request: pytest.FixtureRequest) -> Folder:
    return request.getfixturevalue(request.param)


def theirs(network: Any, ids: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """What transformers makes of one text without padding: values of the last layer and the vector."""
    with torch.no_grad():
        out = network(input_ids=ids[:length][None])
    vector = out.text_embeds[0] if hasattr(out, "text_embeds") else out.last_hidden_state[0].mean(0)
    return out.last_hidden_state[0], vector


def test_features_are_those_of_the_library_with_and_without_padding(both: Folder) -> None:
    folder, network = both
    encoder = open_pretrained(folder)
    ids = encoder.tokens(TEXTS)
    assert ids.shape == (4, encoder.length)
    padded = encoder(ids)
    assert padded.values.shape == (4, encoder.length, encoder.width) == (4, encoder.length, 16)
    assert padded.vector.shape == (4, encoder.vector_width)
    for row, text in enumerate(TEXTS):
        length = len(encoder.pieces(text).ids)
        values, vector = theirs(network, ids[row], length)
        assert padded.mask[row].tolist() == [True] * length + [False] * (encoder.length - length)
        for found in (padded, encoder(ids[:, : max(9, length)]), encoder(ids[row : row + 1, :length])):
            at = row if len(found.values) > 1 else 0
            torch.testing.assert_close(found.values[at, :length], values, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.vector[at], vector, atol=1e-5, rtol=1e-5)
        assert not padded.values[row, length:].any()
    # Texts differ, so equal features cannot come from a network that hears nothing.
    assert (padded.vector[0] - padded.vector[1]).abs().max() > 1e-2


def test_the_tokens_are_those_of_the_library(clip: Folder) -> None:
    from transformers import CLIPTokenizerFast

    encoder = open_pretrained(clip[0])
    library = CLIPTokenizerFast.from_pretrained(str(clip[0]), local_files_only=True)
    for text in [*TEXTS, "A  Red\tflower, don't! 42", "赤い花 🌸"]:
        ids = library(text, truncation=True, max_length=encoder.length)["input_ids"]
        assert encoder.tokens([text])[0, : len(ids)].tolist() == ids


def test_what_stands_at_padding_has_no_effect(both: Folder) -> None:
    encoder = open_pretrained(both[0])
    ids = encoder.tokens(TEXTS[:1] + TEXTS[2:])
    plain = encoder(ids)
    noise = torch.randint(0, 30, ids.shape, generator=torch.Generator().manual_seed(1))
    other = encoder(torch.where(plain.mask, ids, noise))
    for name in ("values", "mask", "vector"):
        torch.testing.assert_close(getattr(plain, name), getattr(other, name), atol=1e-6, rtol=1e-6)
    # The padding can be told from the end mark, which CLIP's own is not.
    assert bool(((ids != encoder.pad) == plain.mask).all())


@pytest.mark.parametrize(("kind", "whole"), [("T5", True), ("MT5", False), ("UMT5", False)])
def test_the_kin_of_t5_and_whole_models(kind: str, whole: bool, tmp_path: Path) -> None:
    network = tiny_networks.t5(tmp_path, kind=kind, whole=whole)
    encoder = open_pretrained(tmp_path)
    assert isinstance(encoder, PretrainedT5)
    ids = encoder.tokens(["a red flower"])
    values, _ = theirs(network.encoder if whole else network, ids[0], 4)
    torch.testing.assert_close(encoder(ids).values[0, :4], values, atol=1e-5, rtol=1e-5)


def test_whole_clips_and_towers_without_projection(tmp_path: Path) -> None:
    whole = tiny_networks.whole_clip(tmp_path / "whole")
    ids = PretrainedClipText.from_folder(tmp_path / "whole").tokens(["a red flower"])
    with torch.no_grad():
        wanted = whole.get_text_features(input_ids=ids)
    # Newer versions of the library answer with an object here.
    wanted = getattr(wanted, "pooler_output", wanted)
    found = open_pretrained(tmp_path / "whole")
    torch.testing.assert_close(found(ids).vector, wanted, atol=1e-5, rtol=1e-5)
    bare = tiny_networks.clip_text(tmp_path / "bare", projected=False)
    encoder = open_pretrained(tmp_path / "bare")
    assert encoder.vector_width == encoder.width == 16
    with torch.no_grad():
        wanted = bare(input_ids=ids).pooler_output
    torch.testing.assert_close(encoder(ids).vector, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [-2, -3])
def test_an_earlier_layer_is_the_network_without_the_later_ones(both: Folder, layer: int) -> None:
    folder, network = both
    encoder = open_pretrained(folder, layer=layer)
    ids = encoder.tokens(["a red flower"])
    shorter = copy.deepcopy(network)
    if hasattr(shorter, "text_model"):
        shorter.text_model.encoder.layers = shorter.text_model.encoder.layers[: layer + 1]
    else:
        shorter.encoder.block = shorter.encoder.block[: layer + 1]
    length = int(encoder(ids).mask.sum())
    wanted, _ = theirs(shorter, ids[0], length)
    found, last = encoder(ids), open_pretrained(folder)(ids)
    torch.testing.assert_close(found.values[0, :length], wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.vector, last.vector)
    assert (found.values - last.values).abs().max() > 1e-2
    with pytest.raises(ValueError, match="3 layers; there is no layer -4"):
        open_pretrained(folder, layer=-4)
    with pytest.raises(ValueError, match="counted from the end"):
        open_pretrained(folder, layer=0)


class Holder(nn.Module):
    """A model with an encoder of others and a part of its own."""

    def __init__(self, encoder: PretrainedText) -> None:
        super().__init__()
        self.encoder = encoder
        self.own = nn.Linear(encoder.vector_width, 2)


def test_the_network_is_used_and_not_owned(both: Folder) -> None:
    encoder = open_pretrained(both[0])
    model = Holder(encoder).train()
    features = encoder(encoder.tokens(["red"]))
    model.own(features.vector).sum().backward()
    assert {name for name, _ in model.named_parameters()} == {"own.weight", "own.bias"} == set(model.state_dict())
    network = encoder._network.get()
    assert not network.training
    assert not any(value.requires_grad or value.grad is not None for value in network.parameters())
    # A copy for averaging has no second network.
    assert copy.deepcopy(model).encoder._network.get() is network


def test_the_network_is_loaded_when_first_needed_and_follows_the_module(both: Folder) -> None:
    spec = json.loads(json.dumps(to_spec(open_pretrained(both[0]))))
    assert {"folder", "content", "layer", "length"} <= set(spec)
    assert spec["folder"] == str(both[0])
    gone = {**spec, "folder": "/nowhere/clip"}
    encoder = from_spec(gone, PretrainedText)
    # Whoever only looks at a model asks for no features, and for no tokens but those of the empty text.
    assert encoder.tokens(["", ""]).shape == (2, encoder.length)
    assert not encoder.loaded
    with pytest.raises(
        ValueError, match=r"needs the encoder 'clip' .*which is not part of it: /nowhere/clip is not the"
    ):
        encoder.tokens(["red"])
    with pytest.raises(ValueError, match="KAKUSAN_ENCODERS"):
        encoder(encoder.tokens([""]))
    there = from_spec(spec, PretrainedText)
    ids = there.tokens(["", "red"])
    assert ids[0].tolist() == encoder.tokens([""])[0].tolist()
    assert not there.loaded
    there(ids)
    assert there.loaded
    there.to(torch.float16)
    assert there(ids).values.dtype == torch.float32
    # There is no second device in a test but this one, which computes nothing.
    there.to("meta")
    assert next(on(there._network, there.here.device).parameters()).device.type == "meta"


def test_autocast_changes_nothing(both: Folder) -> None:
    encoder = open_pretrained(both[0])
    ids = encoder.tokens(["a red flower"])
    plain = encoder(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = encoder(ids)
    assert torch.equal(plain.values, inside.values)
    assert torch.equal(plain.vector, inside.vector)
    rough = open_pretrained(both[0], precision="bfloat16")(ids)
    assert rough.values.dtype == torch.float32
    assert 0.0 < float((rough.values - plain.values).abs().max()) < 0.2
    with pytest.raises(ValueError, match="float32, bfloat16, float16; got 'float8'"):
        open_pretrained(both[0], precision="float8")


def test_words_and_their_tokens(both: Folder) -> None:
    encoder = open_pretrained(both[0])
    text = "a red,  Round flower"
    words = encoder.words(text)
    assert [word.text for word in words] == ["a", "red", ",", "Round", "flower"]
    places = [place for word in words for place in word.tokens]
    assert len(set(places)) == len(places)
    spans = encoder.offsets(text)
    assert len(spans) == len(encoder.pieces(text).ids)
    assert spans[-1] == (0, 0)
    for word in words:
        start, end = min(spans[p][0] for p in word.tokens), max(spans[p][1] for p in word.tokens)
        assert text[start:end] == word.text
    # The token that is said to be a word's is the one that changes with it.
    one, other = encoder.tokens(["a red flower", "a blue flower"])
    changed = (one != other).nonzero().flatten().tolist()
    assert tuple(changed) == encoder.words("a red flower")[1].tokens


def test_long_and_unknown_texts_are_said(clip: Folder, t5: Folder) -> None:
    tower, encoder = open_pretrained(clip[0]), open_pretrained(t5[0], length=6)
    report = tower.report("red " * 14)
    assert (report.tokens, report.cut, report.unknown) == (14, 4, ())
    assert report.notes() == ["the text is too long: its last 4 of 14 tokens were left out"]
    assert [word.text for word in tower.words("red " * 14)] == ["red"] * 10
    assert int(tower(tower.tokens(["red " * 14])).mask.sum()) == tower.length
    report = encoder.report("a 🌸 red flower with five petals")
    assert report.unknown == ("🌸",)
    assert encoder.report("red").notes() == []
    assert encoder.report("").tokens == tower.report("").tokens == 0


def test_marks_inside_a_text_are_text(both: Folder) -> None:
    encoder = open_pretrained(both[0])
    for mark in ("<|endoftext|>", "</s>", "<pad>", "<|startoftext|>"):
        ids = encoder.tokens([f"red {mark} petals", "red"])
        mask = encoder(ids).mask
        assert int(mask[0].sum()) > int(mask[1].sum()) + 1
        assert int((ids[0] == encoder.marks[-1]).sum()) == 1


@given(text=st.text(max_size=60) | st.text(st.characters(), max_size=20))
def test_any_text_is_a_text(text: str, clip: Folder, t5: Folder) -> None:
    for encoder in _opened(clip[0], t5[0]):
        ids = encoder.tokens([text])
        assert ids.shape == (1, encoder.length)
        found = encoder.pieces(text)
        assert ids[0, : len(found.ids)].tolist() == found.ids
        assert found.ids[-1] == encoder.marks[-1]
        assert len(found.offsets) == len(found.ids)
        assert all(0 <= start <= end <= len(text) for start, end in found.offsets)
        places = [place for word in encoder.words(text) for place in word.tokens]
        assert places == sorted(set(places))
        encoder.report(text)


_KNOWN: dict[tuple[Path, Path], list[PretrainedText]] = {}


def _opened(*folders: Path) -> list[PretrainedText]:
    if folders not in _KNOWN:
        _KNOWN[folders] = [open_pretrained(folder) for folder in folders]  # type: ignore[index]
    return _KNOWN[folders]  # type: ignore[index]


def test_ten_thousand_characters_and_half_characters(both: Folder) -> None:
    encoder = open_pretrained(both[0])
    assert encoder.report("花" * 10_000).tokens > 0
    assert torch.isfinite(encoder(encoder.tokens(["x" * 10_000, "\ud83c half a flower", "\x00"])).values).all()


def test_no_socket_is_ever_opened(both: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise AssertionError("the network was asked")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", Refusing)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = open_pretrained(both[0])
    encoder(encoder.tokens(["red"]))


def test_the_library_is_left_as_it_was(both: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    encoder = open_pretrained(both[0])
    encoder(encoder.tokens(["red"]))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_a_length_of_ones_own(clip: Folder, t5: Folder) -> None:
    assert open_pretrained(t5[0]).length == 128
    assert open_pretrained(t5[0], length=300)(open_pretrained(t5[0], length=300).tokens(["red"])).mask.shape == (1, 300)
    assert open_pretrained(clip[0]).length == tiny_networks.LENGTH
    with pytest.raises(ValueError, match="3 to 12 tokens, got 13"):
        open_pretrained(clip[0], length=13)
    encoder = open_pretrained(clip[0], length=5)
    with pytest.raises(ValueError, match=r"token numbers are \(B, 1 to 5\), got \(1, 12\)"):
        encoder(open_pretrained(clip[0]).tokens(["red"]))
