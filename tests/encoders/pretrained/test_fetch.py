"""Fetching an encoder, from a server made here. Nothing touches the network."""

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from kakusan.cli import main
from kakusan.encoders.pretrained import fetch as fetching
from kakusan.encoders.pretrained import open_pretrained
from kakusan.encoders.pretrained.fetch import HUB, fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "some/clip"


def listed(files: dict[str, bytes]) -> bytes:
    """The answer of the hub: large files by their SHA-256, others by git's name for them."""
    siblings: list[dict[str, Any]] = []
    for name, data in files.items():
        entry: dict[str, Any] = {"rfilename": name, "size": len(data)}
        if name.endswith(("safetensors", "bin")):
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        else:
            entry["blobId"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        siblings.append(entry)
    return json.dumps({"sha": COMMIT, "siblings": siblings}).encode()


def server(
    files: dict[str, bytes], asked: list[str], answer: bytes | None = None
) -> Callable[[str], AbstractContextManager[IO[bytes]]]:
    def opener(url: str) -> AbstractContextManager[IO[bytes]]:
        asked.append(url.removeprefix(HUB))
        if "/api/" in url:
            return io.BytesIO(listed(files) if answer is None else answer)
        return io.BytesIO(files[url.rpartition("/")[2]])

    return opener


@pytest.fixture
def files(clip: tuple[Path, Any]) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in clip[0].iterdir()}
    junk = ("pytorch_model.bin", "tf_model.h5", "README.md", "code.py", "onnx/model.safetensors")
    return {**found, **dict.fromkeys(junk, b"junk")}


def test_what_is_needed_is_fetched_and_works(
    files: dict[str, bytes], clip: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    out = fetch(NAME, tmp_path / "new", revision="v 1", opener=server(files, asked))
    assert asked[0] == f"/api/models/{NAME}/revision/v%201?blobs=true"
    assert all(url.startswith(f"/{NAME}/resolve/{COMMIT}/") for url in asked[1:])
    names = {path.name for path in out.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "origin.json"}
    assert json.loads((out / "origin.json").read_text()) == {"repository": NAME, "commit": COMMIT}
    one, other = open_pretrained(out), open_pretrained(clip[0])
    assert one.content == other.content
    assert torch.equal(one(one.tokens(["red"])).vector, other(other.tokens(["red"])).vector)
    assert "a network of type 'clip_text_model' is in" in capsys.readouterr().out
    with pytest.raises(ValueError, match="exists already"):
        fetch(NAME, out, opener=server(files, asked))


def test_a_model_in_parts(files: dict[str, bytes], tmp_path: Path) -> None:
    weights = files.pop("model.safetensors")
    part = "model-00001-of-00001.safetensors"
    files[part] = weights
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"x": part}}).encode()
    out = fetch(NAME, tmp_path / "new", opener=server(files, []))
    assert (out / part).read_bytes() == weights


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("harm", [lambda d: d[:-1], lambda d: d + b"x", lambda d: d[:-1] + b"?"])
def test_damaged_files_leave_nothing(
    files: dict[str, bytes], tmp_path: Path, name: str, harm: Callable[[bytes], bytes]
) -> None:
    answer = listed(files)
    files[name] = harm(files[name])
    with pytest.raises(ValueError, match=f"{name} is not the file that the server announced"):
        fetch(NAME, tmp_path / "new", opener=server(files, [], answer))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_encoder_leaves_nothing(files: dict[str, bytes], tmp_path: Path) -> None:
    pickled = {name: data for name, data in files.items() if name != "model.safetensors"}
    with pytest.raises(ValueError, match="has no model.safetensors: .* never pickles"):
        fetch(NAME, tmp_path / "new", opener=server(pickled, []))
    with pytest.raises(ValueError, match="has no config.json"):
        fetch(NAME, tmp_path / "new", opener=server({}, []))
    with pytest.raises(ValueError, match="is a pickle"):
        fetch(NAME, tmp_path / "new", opener=server({**files, "model.safetensors": b"PK\x03\x04 and so on"}, []))
    for answer in (b"<html>", b"[]", b'{"sha": "x", "siblings": []}', b'{"sha": 1, "siblings": [{}]}'):
        with pytest.raises(ValueError, match="something else than a list"):
            fetch(NAME, tmp_path / "new", opener=server(files, [], answer))
    for name in ("../up", "a/b/c", "https://x", "", "a/..", "a b"):
        with pytest.raises(ValueError, match="not the name of a repository"):
            fetch(name, tmp_path / "new", opener=server(files, []))
    assert list(tmp_path.iterdir()) == []


def test_without_a_connection_the_verb_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(url: str) -> Any:
        raise OSError("no route")

    monkeypatch.setattr(fetching, "_open_url", refuse)
    assert main(["get-encoder", NAME, "--out", str(tmp_path / "new")]) == 1
    assert "put them into one folder; that is all an encoder is" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_verb(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetching, "_open_url", server(files, []))
    monkeypatch.chdir(tmp_path)
    assert main(["get-encoder", NAME]) == 0
    assert "downloading model.safetensors" in capsys.readouterr().out
    assert open_pretrained(tmp_path / "encoders/clip").width == 16
