import subprocess
import sys
from pathlib import Path

import pytest

from kakusan.files import sync_folder, unfinished, whole_file, write_text


def test_a_failed_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest"
    write_text(path, "one")

    def fail(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="full"):
        write_text(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["latest", "config.toml", "x" * 250 + ".json"])
def test_what_a_killed_writer_leaves_is_the_old_file_and_a_known_leftover(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_text(path, "old")
    code = (
        "import os, signal, sys\nfrom kakusan.files import whole_file\n"
        "with whole_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert path.read_text() == "old"
    (leftover,) = unfinished(tmp_path)
    assert set(tmp_path.iterdir()) == {path, leftover}


def test_the_temporary_file_keeps_the_suffix(tmp_path: Path) -> None:
    with whole_file(tmp_path / "new" / "a.gif") as temporary:
        assert temporary.suffix == ".gif"
        temporary.write_bytes(b"x")
    assert (tmp_path / "new" / "a.gif").read_bytes() == b"x"


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "桜\r\n\n")
    assert (tmp_path / "a").read_bytes() == "桜\r\n\n".encode()


def test_users_own_files_are_never_leftovers(tmp_path: Path) -> None:
    for name in ("part", "a.part", ".part", ".part-step-1", "notes.part.txt", ".hidden"):
        (tmp_path / name).write_text("mine")
    assert unfinished(tmp_path) == []
    sync_folder(tmp_path)
    sync_folder(tmp_path / "absent")
