"""`kakusan compress` and `kakusan decompress` on a trained run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kakusan.cli import main

pytest.importorskip("constriction", reason='needs pip install "kakusan[codec]"')


def pixels(folder: Path) -> list[bytes]:
    return sorted(np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.png"))


@pytest.mark.parametrize("labels", [False, True])
def test_the_same_pixels_come_back(
    trained: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: bool
) -> None:
    file, out = tmp_path / "file.kks", tmp_path / "out"
    extra = ["--labels"] if labels else []
    assert main(["compress", str(trained), "--data", str(pictures), "--out", str(file), "--steps", "6", *extra]) == 0
    said = capsys.readouterr().out
    assert "checked" in said
    assert all(word in said for word in ("bits/dim", "PNG files", "zlib", "lzma"))
    assert main(["decompress", str(trained), str(file), "--out", str(out)]) == 0
    assert pixels(out) == pixels(pictures)
    if labels:
        for name in ("blue", "red"):
            assert pixels(out / name) == pixels(pictures / name)
    assert main(["decompress", str(trained), str(file), "--out", str(out)]) == 1
    assert "empty or new folder" in capsys.readouterr().err


def test_a_file_that_is_none_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file.kks"
    file.write_bytes(b"hello")
    assert main(["decompress", str(trained), str(file), "--out", str(tmp_path / "out")]) == 1
    assert "not a file written by" in capsys.readouterr().err
