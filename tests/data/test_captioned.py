"""Laws of captions from elsewhere: they reach the pictures they name, in doubt none, and the rest stays as it was."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kakusan.data.captioned import Captioned, read_captions, with_captions
from kakusan.data.captions import language_of
from kakusan.data.source import ArrayPictures, Pictures, blocks_of, decoder_of, open_data, subset
from kakusan.data.spec import DataSpec

ROWS = [
    {"file": "001_rose/a.png", "kind": "exact", "captions": ["赤い 🌹", "red"]},
    {"file": "001_rose/b.png", "kind": "class", "captions": ["pink"], "own": "rosy"},
    {"file": "002_iris/a.png", "kind": "exact", "captions": ["blue"]},
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, name in enumerate(("001_rose/a", "001_rose/b", "002_iris/a", "002_iris/c")):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6), (40 * i, 0, 0)).save(path)
    return tmp_path / "photos"


def written(path: Path, rows: list[dict]) -> Path:
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.jsonl.gz"])
def test_a_file_of_captions_beside_any_source(name: str, photos: Path, tmp_path: Path) -> None:
    file = written(tmp_path / name, ROWS)
    plain = open_data(photos, cache="off")
    found = open_data(photos, cache="off", captions=file)
    assert isinstance(found, Pictures)
    assert found.texts == (("赤い 🌹", "red"), ("pink",), ("blue",), ())
    assert found.captions == ("赤い 🌹", "pink", "blue", "")
    assert f"{name}: 4 captions for 3 of 4 pictures" in found.notes
    assert found.spec == plain.spec
    assert torch.equal(found.labels, plain.labels)
    assert torch.equal(found.read([3, 0]), plain.read([3, 0]))
    assert [found.name(i) for i in range(4)] == [plain.name(i) for i in range(4)]
    assert found.digest(2) == plain.digest(2)
    assert found.fingerprint != plain.fingerprint
    assert found.fingerprint == open_data(photos, cache="off", captions=file).fingerprint
    assert subset(found, [2]).texts == (("blue",),)


def test_rows_are_chosen_by_a_column(photos: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "c.jsonl", ROWS)
    found = open_data(photos, cache="off", captions=file, captions_where="kind=exact", captioned_only=True)
    assert found.texts == (("赤い 🌹", "red"), ("blue",))
    assert "2 pictures without captions are left out" in found.notes
    both = open_data(photos, cache="off", captions=file, captions_where="kind=exact,class")
    assert both.texts == open_data(photos, cache="off", captions=file).texts
    own = open_data(photos, cache="off", captions=file, captions_column="own")
    assert own.texts == ((), ("rosy",), (), ())


def test_csv_and_repeated_rows(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text('file,caption,caption_ja\na.png,"one, two",一\na.png,three,\n', encoding="utf-8-sig")
    found = read_captions(path)
    assert found == {"a.png": ("one, two", "一", "three")}
    assert [language_of(text) for text in found["a.png"]] == [None, "ja", None]


def named(*names: str) -> ArrayPictures:
    stored = np.zeros((len(names), 1, 2, 2), np.uint8)
    return ArrayPictures(DataSpec.measure(stored), stored, names=names)


@pytest.mark.parametrize(
    ("names", "rows", "texts"),
    [
        (("x/a.png", "x/b.png"), {"x/a.png": ["1"]}, (("1",), ())),
        (("x/a.png", "x/b.png"), {"x/a.jpg": ["1"]}, (("1",), ())),
        (("x/a.png", "x/b.png"), {"images/a.png": ["1"], "b.png": ["2"]}, (("1",), ("2",))),
        (("x/a.png", "x/b.png"), {"a": ["1"], "q": ["2"]}, (("1",), ())),
    ],
)
def test_names_are_matched_by_the_most_telling_rule(names, rows, texts) -> None:
    assert with_captions(named(*names), rows).texts == texts


@pytest.mark.parametrize(
    ("names", "rows", "message"),
    [
        (("x/a.png", "y/a.png"), {"a.png": ["1"]}, "2 pictures are called so: x/a.png, y/a.png"),
        (("x/a.png",), {"b.png": ["1"]}, "names none of the 1 pictures: it has 'b.png'"),
        (("a.png",), {"a.jpg": ["1"], "a.gif": ["2"]}, "two rows for a.png"),
    ],
)
def test_names_in_doubt_are_refused(names, rows, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_captions(named(*names), rows)


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("c.txt", b"x", {}, "no captions file; .jsonl, .csv"),
        ("c.jsonl", b"", {}, "it has no rows"),
        ("c.jsonl", b"{", {}, "line 1 is not JSON"),
        ("c.jsonl", b"\xff\xfe", {}, "not UTF-8"),
        ("c.jsonl.gz", b"plain", {}, "cannot be read"),
        ("c.jsonl.gz", gzip.compress(b"x" * 1000, mtime=0)[:20], {}, "cannot be read"),
        ("c.jsonl", b'{"caption": "a"}', {}, "names no picture"),
        ("c.jsonl", b'{"file": 3, "caption": "a"}', {}, "names no picture"),
        ("c.jsonl", b'{"file": "a"}', {}, "no column 'caption'"),
        ("c.jsonl", b'{"file": "a", "text": "a", "kind": "b"}', {"where": "kin=b"}, "did you mean 'kind'"),
        ("c.jsonl", b'{"file": "a", "text": "a", "kind": "b"}', {"where": "kind=c"}, "none of its 1 rows has kind=c"),
        ("c.jsonl", b'{"file": "a", "caption": "a"}', {"where": "kind"}, "column=value"),
        ("c.jsonl", b'{"file": "a", "caption": "a"}', {"column": "words"}, "no captions in a column 'words'"),
        ("c.jsonl", b'{"file": "a", "caption": "a\\u0000"}', {}, "line 1: 'caption': the caption holds a NUL"),
    ],
)
def test_bad_files_are_told(name: str, data: bytes, options: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_captions(tmp_path / name, **options)


def test_a_choice_without_a_file_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="captions=FILE"):
        open_data(photos, captions_where="a=b")
    with pytest.raises(ValueError, match="does not exist"):
        open_data(photos, cache="off", captions=tmp_path / "no.jsonl")
    with pytest.raises(ValueError, match="no picture has a caption"):
        open_data(photos, cache="off", captioned_only=True)
    with pytest.raises(ValueError, match="4 pictures but captions for 1"):
        Captioned(open_data(photos, cache="off"), [["a"]])


def test_templates_speak_where_nobody_has(photos: Path) -> None:
    (photos / "001_rose" / "a.txt").write_text("mine")
    found = open_data(photos, cache="off", templates=["a picture of a {class}", "{class}の写真"])
    iris = ("a picture of an iris", "irisの写真")
    assert found.texts == (("mine",), ("a picture of a rose", "roseの写真"), iris, iris)
    assert "3 pictures get captions from their class" in found.notes
    digits = open_data("flowers", size=8, num=16, templates=["{class}"])
    assert digits.fingerprint == "flowers 1 train 16 8"
    with pytest.raises(ValueError, match="have no classes"):
        open_data("flowers:words", size=8, num=2, templates=["{class}"])


def test_what_reads_fast_still_does() -> None:
    class Streamed(ArrayPictures):
        blocks, decoder = "blocks", "decoder"

    stored = np.zeros((2, 1, 2, 2), np.uint8)
    found = Captioned(Streamed(DataSpec.measure(stored), stored), [["a"], []])
    assert (blocks_of(found), decoder_of(found)) == ("blocks", "decoder")
