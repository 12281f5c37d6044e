"""Classes and captions from metadata files."""

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from kakusan.data.folder import open_folder


def put(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 12), (value, 0, 0)).save(path)


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Three classes."""
    root = tmp_path / "flowers"
    for name, count in (("class2", 3), ("class10", 2), ("class1", 4)):
        for i in range(count):
            put(root / name / f"{i}.png", i)
    return root


def test_metadata_gives_classes_and_captions(tmp_path: Path) -> None:
    for i in range(4):
        put(tmp_path / "images" / f"{i}.png")
    rows = [{"file_name": f"images/{i}.png", "label": ["rose", "daisy"][i % 2], "text": f"nr {i}"} for i in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pictures = open_folder(tmp_path)
    assert pictures.spec.classes == ("daisy", "rose")
    assert pictures.labels is not None
    assert pictures.labels.tolist() == [1, 0, 1, 0]
    assert list(pictures.captions or ()) == ["nr 0", "nr 1", "nr 2", "nr 3"]


def test_metadata_with_numbers_and_names(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / "all" / f"{i}.png")
    table = "file,label,class_name\n0.png,1,apple\n1.png,0,zebra\n2.png,1,apple\n"
    (tmp_path / "all" / "metadata.csv").write_text(table)
    pictures = open_folder(tmp_path)
    assert pictures.spec.classes == ("zebra", "apple")
    assert pictures.labels is not None
    assert pictures.labels.tolist() == [1, 0, 1]


def test_captions_alone_leave_classes_to_the_folders(classes: Path) -> None:
    (classes / "metadata.csv").write_text("\ufefffile_name,caption\nclass1/0.png,a flower\n", encoding="utf-8")
    pictures = open_folder(classes)
    assert len(pictures.spec.classes) == 3
    assert list(pictures.captions or ()) == ["a flower"] + [""] * 8
    assert any("8 of 9 pictures have no caption" in note for note in pictures.notes)


def test_metadata_kept_elsewhere(classes: Path, tmp_path: Path) -> None:
    lines = [f"{p.relative_to(classes).as_posix()},{p.parent.name[-1]}" for p in classes.rglob("*.png")]
    (tmp_path / "m.csv").write_text("file,label\n" + "\n".join(lines))
    pictures = open_folder(zipped(classes, tmp_path / "x.zip"), metadata=tmp_path / "m.csv")
    assert pictures.spec.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.csv", "file,label\na.png,0\n", "1 pictures have no label: b.png"),
        ("metadata.csv", "file,label\na.png,0\nb.png,\n", "1 pictures have no label: b.png"),
        ("metadata.csv", "file,label\na.png,0\nb.png,-1\n", "label -1 of b.png .* out of range"),
        ("metadata.csv", "file,label\na.png,0\na.png,1\n", "a.png twice"),
        ("metadata.csv", "file,label\na.png,0\nb.png,1\nc.png,1\n", "1 files that are not there .*c.png"),
        ("metadata.csv", "file,label\na.png,0\n../b.png,1\n", "not a plain path"),
        ("metadata.csv", "file,label\na.png,0\n/etc/passwd,1\n", "not a plain path"),
        ("metadata.csv", "file,label\na.png,0\nC:b.png,1\n", "not a plain path"),
        ("metadata.csv", "name,label\na.png,0\n", "no column 'file_name' or 'file'; it has name, label"),
        ("metadata.csv", "file,label\na.png,0,9\n", "more or fewer columns"),
        ("metadata.csv", "file,label\n", "no rows"),
        ("metadata.csv", "file,label,class\na.png,0,x\nb.png,0,y\n", "called both 'x' and 'y'"),
        ("metadata.csv", "file,label,class\na.png,0,x\nb.png,1,x\n", "share one class name"),
        ("metadata.jsonl", '{"file": "a.png"', "line 1 is not JSON"),
        ("metadata.jsonl", "[1]", "not a JSON object"),
        ("metadata.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("metadata.jsonl", '{"file": "a.png", "label": 0.5}', "'label' must be text or a whole number"),
    ],
)
def test_metadata_that_does_not_fit(tmp_path: Path, name: str, text: str, message: str) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path)


def test_metadata_in_the_wrong_place_or_twice(classes: Path) -> None:
    (classes / "class1" / "metadata.csv").write_text("file\n0.png\n")
    with pytest.raises(ValueError, match="describes only part"):
        open_folder(classes)
    (classes / "metadata.csv").write_text("file\nclass1/0.png\n")
    with pytest.raises(ValueError, match="several metadata files"):
        open_folder(classes)


def test_metadata_that_is_not_text(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_bytes(b"file\n\xff\xfe.png\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        open_folder(tmp_path)
