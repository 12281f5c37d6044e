"""Laws of captions: every one arrives as it was written, from every kind of source, and bad ones are told."""

import copy
import csv
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kakusan.data.captions import (
    LONGEST,
    MOST,
    Caption,
    CaptionFacts,
    caption_columns,
    class_captions,
    class_words,
    file_captions,
    language_of,
    row_captions,
    script_of,
    sidecar_names,
)
from kakusan.data.check import check_folder
from kakusan.data.source import ArrayPictures, Pictures, open_data, split_held_out, subset
from kakusan.data.spec import DataSpec

WRITTEN = (
    ("a red flower 🌺", "赤い花、花びらが五枚"),
    ("👩‍🌾🌻 ひまわり",),
    (),
    ("plain", "plain", 'it\'s, "quoted"'),
)
anything = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40)


def picture_bytes(value: int) -> bytes:
    found = io.BytesIO()
    Image.new("RGB", (6, 6), (20 * value, 0, 90)).save(found, "PNG")
    return found.getvalue()


def folder_of(path: Path, count: int = len(WRITTEN)) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (path / f"{i}.png").write_bytes(picture_bytes(i))
    return path


def jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def by_list(path: Path) -> Path:
    jsonl(folder_of(path) / "metadata.jsonl", [{"file": f"{i}.png", "captions": t} for i, t in enumerate(WRITTEN)])
    return path


def by_columns(path: Path) -> Path:
    with (folder_of(path) / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "caption", "caption", "caption_ja"])
        rows.writerows([f"{i}.png", *[*t, "", "", ""][:3]] for i, t in enumerate(WRITTEN))
    return path


def by_rows(path: Path) -> Path:
    rows = [{"file": f"{i}.png", "caption": text} for i, t in enumerate(WRITTEN) for text in t]
    jsonl(folder_of(path) / "metadata.jsonl", rows)
    return path


def by_sidecars(path: Path) -> Path:
    for i, texts in enumerate(WRITTEN):
        if texts:
            (folder_of(path) / f"{i}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def by_zip(path: Path) -> Path:
    by_sidecars(path)
    with zipfile.ZipFile(path / "all.zip", "w") as archive:
        for file in path.iterdir():
            if file.suffix != ".zip":
                archive.write(file, f"inside/{file.name}")
    return path / "all.zip"


def by_shards(path: Path) -> Path:
    path.mkdir()
    with tarfile.open(path / "a.tar", "w") as archive:
        for i, texts in enumerate(WRITTEN):
            files = {"png": picture_bytes(i)}
            if i == 0:
                files["json"] = json.dumps({"captions": texts}).encode()
            elif texts:
                files["txt"] = "\r\n".join(texts).encode()
            for kind, data in files.items():
                member = tarfile.TarInfo(f"{i}.{kind}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def by_parquet_beside(path: Path) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = [f"{i}.png" for i in range(len(WRITTEN))]
    columns = {"file_name": names, "captions": [list(t) for t in WRITTEN], "image": [b"left out"] * len(names)}
    parquet.write_table(arrow.table(columns), folder_of(path) / "metadata.parquet")
    return path


def by_parquet(path: Path) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.mkdir()
    columns = {"image": [picture_bytes(i) for i in range(len(WRITTEN))], "captions": [list(t) for t in WRITTEN]}
    parquet.write_table(arrow.table(columns), path / "a.parquet")
    return path


@pytest.mark.parametrize(
    "make", [by_list, by_columns, by_rows, by_sidecars, by_zip, by_shards, by_parquet, by_parquet_beside]
)
@pytest.mark.parametrize("cache", ["off", "on"])
def test_every_kind_of_source_keeps_all_captions(make, cache: str, tmp_path: Path) -> None:
    source = make(tmp_path / "data")
    options = {"cache": "off" if cache == "off" else str(tmp_path / "cache")}
    found = open_data(source, **options)
    assert isinstance(found, Pictures)
    assert tuple(map(tuple, found.texts)) == WRITTEN
    assert found.captions == tuple(t[0] if t else "" for t in WRITTEN)
    assert "1 of 4 pictures have no caption" in found.notes
    again = open_data(source, **options)
    assert (again.texts, again.fingerprint) == (found.texts, found.fingerprint)
    some = subset(found, [3, 0])
    assert tuple(map(tuple, some.texts)) == (WRITTEN[3], WRITTEN[0])
    assert split_held_out(found)[0].texts == found.texts


def test_streamed_and_lazy_sets_keep_them(tmp_path: Path) -> None:
    streamed = open_data(by_shards(tmp_path / "a"), stream_above=0)
    lazy = open_data(by_list(tmp_path / "b"), memory_limit=1, cache="off")
    for found in (streamed, lazy):
        assert type(found).__name__ == "LazyPictures"
        assert tuple(map(tuple, found.texts)) == WRITTEN


def test_languages_are_those_of_the_columns(tmp_path: Path) -> None:
    rows = [
        {"file": "0.png", "caption_ja": "花", "caption": "a flower", "caption_en_2": "one"},
        {"file": "1.png", "captions": {"en": ["a", "b"], "ja": "い"}},
    ]
    jsonl(folder_of(tmp_path, 2) / "metadata.jsonl", rows)
    texts = open_data(tmp_path).texts
    assert [[(t, language_of(t)) for t in several] for several in texts] == [
        [("a flower", None), ("花", "ja"), ("one", "en")],
        [("a", "en"), ("b", "en"), ("い", "ja")],
    ]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["file", "caption", "text"], ["caption"]),
        (["caption_2", "caption", "caption_ja", "captions"], ["caption", "caption_2", "caption_ja", "captions"]),
        (["text_ja", "text"], ["text", "text_ja"]),
        (["caption_id", "caption_source", "caption_url", "textile", "textual"], []),
        (["Caption", "CAPTION-EN"], ["Caption", "CAPTION-EN"]),
    ],
)
def test_columns_of_captions(names: list[str], found: list[str]) -> None:
    assert [name for name, _ in caption_columns(names)] == found


def test_fingerprints_of_data_with_at_most_one_caption_stay(tmp_path: Path) -> None:
    """The formula of the first version, written down again: runs of then must resume."""
    root = folder_of(tmp_path / "a", 3)
    jsonl(root / "metadata.jsonl", [{"file": "0.png", "caption": "花 🌸"}, {"file": "2.png", "caption": "b"}])
    content = hashlib.sha256(repr(()).encode())
    for i, text in enumerate(("花 🌸", None, "b")):
        digest = hashlib.sha256(picture_bytes(i)).hexdigest()
        content.update(repr((f"{i}.png", None, text, digest)).encode())
    assert open_data(root).fingerprint == content.hexdigest()
    jsonl(root / "metadata.jsonl", [{"file": "0.png", "caption": ["花 🌸", "x"]}, {"file": "2.png", "caption": "b"}])
    assert open_data(root).fingerprint != content.hexdigest()

    stored = np.arange(3 * 4, dtype=np.uint8).reshape(3, 1, 2, 2)
    spec = DataSpec.measure(stored)
    plain = hashlib.sha256(repr(((3, 1, 2, 2), "|u1", ())).encode())
    plain.update(stored.tobytes())
    plain.update(repr((None, ("a", "", "c"))).encode())
    assert ArrayPictures(spec, stored, captions=["a", "", "c"]).fingerprint == plain.hexdigest()
    assert ArrayPictures(spec, stored, texts=[["a"], [], ["c"]]).fingerprint == plain.hexdigest()
    several = ArrayPictures(spec, stored, texts=[["a", "b"], [], ["c"]])
    assert several.fingerprint != plain.hexdigest()
    assert several.captions == ("a", "", "c")
    with pytest.raises(ValueError, match="not both"):
        ArrayPictures(spec, stored, captions=["a"] * 3, texts=[["a"]] * 3)


def test_flowers_speak_both_languages() -> None:
    found = open_data("flowers", size=8, num=16)
    assert found.fingerprint == "flowers 1 train 16 8"
    assert all([language_of(t) for t in several] == ["en", "ja"] for several in found.texts)
    assert found.captions == tuple(several[0] for several in found.texts)
    assert script_of(found.texts[3][1]) == "Japanese"


@settings(max_examples=100, deadline=None)
@given(st.lists(anything, max_size=5))
def test_any_text_arrives_as_it_was_written(texts: list[str]) -> None:
    row = json.loads(json.dumps({"file": "a.png", "captions": texts}))
    found = row_captions(row, "here")
    assert found.texts == [t for t in texts if t.strip()]
    assert found.empty == sum(bool(t) and not t.strip() for t in texts)
    lines = [t.strip() for t in texts if t.strip() and not set("\r\n") & set(t)]
    assert file_captions("\n".join(lines).encode(), "a.txt").texts == lines


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_are_captions_or_an_error_for_people(data: bytes) -> None:
    try:
        found = file_captions(data, "a.txt")
    except ValueError as error:
        said = str(error)
    else:
        said = "a.txt"
        assert all(text and "\0" not in text for text in found.texts)
        "".join(found.texts).encode()
    assert "a.txt" in said


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfea\0b\0", "UTF-16"),
        (b"caf\xe9", "not UTF-8 text .byte 3"),
        (b"one\ntw\0o", "line 2: the caption holds a NUL"),
        (b"x" * (LONGEST + 1), "100,001 characters"),
        (b"x\n" * 600_000, "larger than 1 MiB"),
        (b"x\n" * (MOST + 1), "more than 1000 captions"),
    ],
)
def test_bad_text_files_are_named(data: bytes, message: str, tmp_path: Path) -> None:
    (folder_of(tmp_path) / "2.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        open_data(tmp_path)
    assert "2.txt" in str(error.value)


def test_a_damaged_table_is_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (folder_of(tmp_path) / "metadata.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ValueError, match="metadata.parquet is not a readable parquet file"):
        open_data(tmp_path)


def test_empty_captions_are_counted(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "0.txt").write_bytes(b"\xef\xbb\xbf  \n\n")
    (tmp_path / "1.png.txt").write_text("one\n\n   \ntwo\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("of no picture")
    found = open_data(tmp_path)
    assert found.texts == ((), ("one", "two"), (), ())
    assert "1 captions are empty and left out" in found.notes
    assert "1 other files are left out: notes.txt" in found.notes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"caption": 1.5}, "must be text or a list of texts, found '1.5'"),
        ({"captions": [["a"]]}, "a caption is a text"),
        ({"captions": [True]}, "must be text"),
        ({"caption": "a\0b"}, "line 2: 'caption': the caption holds a NUL"),
        ({"caption": "\ud800"}, "half a character"),
        ({"captions": ["a"] * (MOST + 1)}, "more than 1000"),
    ],
)
def test_bad_captions_in_tables_are_named(row: dict, message: str, tmp_path: Path) -> None:
    lines = [json.dumps({"file": "0.png"}), json.dumps({"file": "1.png", **row})]
    (folder_of(tmp_path) / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        open_data(tmp_path)


def test_two_rows_must_agree(tmp_path: Path) -> None:
    one = {"file": "0.png", "caption": "a", "label": "x"}
    rest = [{"file": f"{i}.png", "label": "y"} for i in (1, 2, 3)]
    jsonl(folder_of(tmp_path) / "metadata.jsonl", [one, {**one, "caption": "b"}, *rest])
    assert open_data(tmp_path).texts[0] == ("a", "b")
    jsonl(tmp_path / "metadata.jsonl", [one, {**one, "label": "y"}, *rest])
    with pytest.raises(ValueError, match=r"twice \(lines 1 and 2\) with different labels"):
        open_data(tmp_path)


def test_metadata_come_before_files_beside(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "0.txt").write_text("beside")
    (tmp_path / "1.txt").write_text("beside")
    jsonl(tmp_path / "metadata.jsonl", [{"file": "0.png", "caption": "table"}, {"file": "1.png"}])
    assert open_data(tmp_path).texts == (("table",), ("beside",), (), ())
    assert sidecar_names("a.b/c.d.png") == ("a.b/c.d.txt", "a.b/c.d.png.txt")
    assert sidecar_names("a.b/c") == ("a.b/c.txt", "a.b/c.txt")


def test_captions_survive_copies() -> None:
    text = Caption("花", "ja")
    assert copy.deepcopy(text) == "花"
    assert language_of(copy.deepcopy(text)) == "ja"
    assert repr(text) == "'花'"
    assert language_of("plain") is None


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a rose", "Latin"),
        ("赤いバラ", "Japanese"),
        ("漢字漢字 a", "kanji only"),
        ("장미", "Korean"),
        ("роза", "Cyrillic"),
        ("🌹 12", "no letters"),
        ("", "no letters"),
    ],
)
def test_scripts(text: str, script: str) -> None:
    assert script_of(text) == script


def test_names_of_classes_become_captions() -> None:
    assert class_words("077_passion_flower") == "passion flower"
    assert class_words("102") == "102"
    assert class_words("3d_model") == "3d model"
    assert class_words("桜_01") == "桜 01"
    assert class_captions("iris", ["a picture of a {class}", "{class}の写真"]) == ("a picture of an iris", "irisの写真")
    assert [language_of(t) for t in class_captions("桜", ["a picture of a {class}", "{class}の写真"])] == ["en", "ja"]
    for bad in ([], ["a picture"], ["{class} {other}"], ["{class.__doc__}"]):
        with pytest.raises(ValueError, match="template"):
            class_captions("x", bad)


def test_the_check_tells_of_captions(tmp_path: Path) -> None:
    report = check_folder(by_columns(tmp_path / "a"))
    facts = report.texts
    assert (facts.captions, facts.pictures, facts.without, report.captions) == (6, 3, 1, 3)
    assert facts.scripts == {"Latin": 4, "Japanese": 2}
    assert facts.languages == {"ja": 1}
    assert (facts.longest, facts.longest_of) == (14, "0.png")
    assert (facts.repeated, facts.twice, facts.empty) == (0, 1, 0)
    assert "captions    6 for 3 pictures (2 each), 1 pictures without" in report.text()
    assert "written in Latin: 4, Japanese: 2" in report.text()
    json.dumps(report.to_json())
    assert "captions    none" in check_folder(folder_of(tmp_path / "b")).text()
    same = CaptionFacts.of([("a",), ("a", "b")], ["1", "2"], empty=2)
    assert (same.repeated, same.empty) == (2, 2)
