"""Folders of encoders: what is refused and why, the hash of what is used, and folders that have moved."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_networks
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kakusan.encoders.pretrained import (
    ENCODERS,
    PretrainedClipImage,
    PretrainedClipText,
    PretrainedT5,
    move,
    open_pretrained,
)
from kakusan.encoders.pretrained.place import look

Folder = tuple[Path, Any]


@pytest.fixture
def mine(clip: Folder, tmp_path: Path) -> Path:
    """A copy that a test may harm."""
    return Path(shutil.copytree(clip[0], tmp_path / "clip"))


def says(folder: Path, **changes: Any) -> None:
    """Change entries of `config.json`."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_pickles_are_refused_unread(mine: Path) -> None:
    tensors = load_file(mine / "model.safetensors")
    torch.save(tensors, mine / "pytorch_model.bin")
    # Beside safetensors a pickle is of no interest.
    open_pretrained(mine)
    (mine / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"pytorch_model.bin is a pickle, .* never loads pickles, which can run any code"
    ):
        open_pretrained(mine)
    # One under another name is told by its content.
    (mine / "pytorch_model.bin").rename(mine / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors is a pickle"):
        open_pretrained(mine)
    (mine / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no weights: expected model.safetensors or"):
        open_pretrained(mine)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_a_strangers_is_refused(mine: Path, name: str) -> None:
    (mine / "code.py").write_text("raise SystemExit('the code was run')")
    path = mine / name
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "code.Model"}}))
    with pytest.raises(ValueError, match="never runs code from such a folder"):
        open_pretrained(mine)


def test_adapters_are_refused(mine: Path) -> None:
    (mine / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="merge the two"):
        open_pretrained(mine)


def test_other_networks_are_refused(clip: Folder, t5: Folder, mine: Path) -> None:
    with pytest.raises(ValueError, match="network of type 't5', expected clip or clip_text_model"):
        PretrainedClipText.from_folder(t5[0])
    with pytest.raises(ValueError, match="network of type 'clip_text_model', expected t5 or mt5 or umt5"):
        PretrainedT5.from_folder(clip[0])
    with pytest.raises(ValueError, match="expected clip or clip_vision_model"):
        PretrainedClipImage.from_folder(clip[0])
    says(mine, model_type="bert")
    with pytest.raises(ValueError, match="'bert'; text encoders are of the types clip, clip_text_model, t5, mt5, umt5"):
        open_pretrained(mine)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text("[1]"), "holds no JSON object"),
        (lambda f: says(f, hidden_size="wide"), "config.json is damaged"),
        (lambda f: says(f, vocab_size=100), "do not belong together"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer: expected tokenizer.json, or vocab.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer in .* cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345678{"), "damaged or not a safetensors file"),
        (lambda f: shutil.rmtree(f), "there is no folder"),
    ],
)
def test_damage_is_named(mine: Path, harm: Any, message: str) -> None:
    harm(mine)
    with pytest.raises(ValueError, match=message):
        PretrainedClipText.from_folder(mine)


@pytest.mark.parametrize("name", ["text_model.encoder.layers.1.mlp.fc1.weight", "text_model.final_layer_norm.bias"])
def test_half_a_network_is_refused_and_so_is_nan(mine: Path, name: str) -> None:
    tensors = load_file(mine / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != name}, mine / "model.safetensors", {"format": "pt"})
    encoder = open_pretrained(mine)
    with pytest.raises(ValueError, match=f"does not hold a whole CLIPTextModelWithProjection: .*{name.split('.')[-2]}"):
        encoder(encoder.tokens(["red"]))
    save_file({**tensors, name: tensors[name] * float("nan")}, mine / "model.safetensors", {"format": "pt"})
    encoder = open_pretrained(mine)
    with pytest.raises(ValueError, match="weights that are not finite in float32"):
        encoder(encoder.tokens(["red"]))
    save_file({**tensors, name: torch.zeros(3)}, mine / "model.safetensors", {"format": "pt"})
    encoder = open_pretrained(mine)
    with pytest.raises(ValueError, match="does not hold a"):
        encoder(encoder.tokens(["red"]))


def test_a_tokenizer_without_an_end_mark_is_refused(mine: Path) -> None:
    path = mine / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    with pytest.raises(ValueError, match="no end mark"):
        open_pretrained(mine)


def test_other_forms_of_folders_give_the_same(clip: Folder, tmp_path: Path) -> None:
    texts = ["a Red flower, don't", "five 赤"]
    plain = open_pretrained(clip[0])
    wanted = plain(plain.tokens(texts))
    # A tokenizer as two older files.
    tiny_networks.clip_text(tmp_path / "old", files="vocab")
    # A tokenizer beside the network, as in folders of diffusers, and weights in half precision only.
    pipe = tmp_path / "pipe"
    shutil.copytree(clip[0], pipe / "text_encoder_2")
    (pipe / "tokenizer_2").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (pipe / "text_encoder_2" / name).rename(pipe / "tokenizer_2" / name)
    (pipe / "text_encoder_2/model.safetensors").rename(pipe / "text_encoder_2/model.fp16.safetensors")
    # Weights in two files.
    shards = Path(shutil.copytree(clip[0], tmp_path / "shards"))
    tensors = load_file(shards / "model.safetensors")
    parts = {"one.safetensors": list(tensors)[:9], "two.safetensors": list(tensors)[9:]}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, shards / file, {"format": "pt"})
    table = {name: file for file, names in parts.items() for name in names}
    (shards / "model.safetensors").unlink()
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    for folder in (tmp_path / "old", pipe / "text_encoder_2", shards):
        encoder = open_pretrained(folder)
        assert torch.equal(encoder.tokens(texts), plain.tokens(texts)), folder
        found = encoder(encoder.tokens(texts))
        torch.testing.assert_close(found.values, wanted.values)
        torch.testing.assert_close(found.vector, wanted.vector)
    (shards / "two.safetensors").unlink()
    with pytest.raises(ValueError, match="two.safetensors is missing"):
        open_pretrained(shards)
    for bad in ("../one.safetensors", 3):
        index.write_text(json.dumps({"weight_map": {"x": bad}}))
        with pytest.raises(ValueError, match="names no files of this folder"):
            open_pretrained(shards)
    torch.save({}, shards / "x.bin")
    index.write_text(json.dumps({"weight_map": {"x": "x.bin"}}))
    with pytest.raises(ValueError, match="x.bin is not a safetensors file"):
        open_pretrained(shards)


def test_the_hash_is_of_what_decides_the_features(clip: Folder, mine: Path) -> None:
    before = look(mine, tokenizer=True).content()
    assert before == look(clip[0], tokenizer=True).content()
    (mine / "README.md").write_text("hello")
    assert look(mine, tokenizer=True).content() == before
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        kept = (mine / name).read_bytes()
        (mine / name).write_bytes(kept + b" ")
        assert look(mine, tokenizer=True).content() != before, name
        (mine / name).write_bytes(kept)


def test_a_folder_that_was_changed_is_refused(mine: Path) -> None:
    encoder = open_pretrained(mine)
    says(mine, hidden_act="gelu")
    with pytest.raises(ValueError, match=r"needs the encoder 'clip' .* holds another one"):
        encoder(encoder.tokens([""]))


def test_folders_that_have_moved(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = open_pretrained(mine)
    model = nn.ModuleDict({"first": nn.ModuleDict({"text": encoder}), "other": nn.Linear(1, 1)})
    wanted = open_pretrained(mine)(encoder.tokens(["red"])).vector
    monkeypatch.delenv(ENCODERS, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    mine.rename(home / "clip")
    fresh = encoder.moved(mine)
    with pytest.raises(ValueError, match="is not there"):
        fresh.tokens(["red"])
    # Found by its name where the environment says.
    monkeypatch.setenv(ENCODERS, str(home))
    found = encoder.moved(mine)
    torch.testing.assert_close(found(found.tokens(["red"])).vector, wanted)
    # Or where it is said to be, by its name or by its whole path, anywhere inside a model.
    monkeypatch.delenv(ENCODERS)
    (home / "clip").rename(tmp_path / "elsewhere")
    for name in ("clip", str(mine)):
        assert move(model, {name: tmp_path / "elsewhere", "unheard": "/x"}) == 1
        there = model["first"]["text"]  # type: ignore[index]
        assert there.folder == str(tmp_path / "elsewhere")
        torch.testing.assert_close(there(there.tokens(["red"])).vector, wanted)
        model["first"]["text"] = encoder  # type: ignore[index]
    assert move(model, {"another": tmp_path}) == 0
