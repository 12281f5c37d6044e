"""Tables of contents of tar files, against the standard library, and damage of every kind."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.tar import BadTar, members

NAMES = st.lists(
    st.text(st.characters(exclude_characters="/\\\0", exclude_categories=("Cs", "Cc")), min_size=1, max_size=160)
    .map(lambda name: name.replace(":", "-"))
    .filter(lambda name: name not in (".", "..")),
    max_size=5,
    unique=True,
)


def pack(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 7
            archive.addfile(info, io.BytesIO(data))
    return path


def content(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {m.name: data[m.offset : m.offset + m.size] for m in members(path)}


@given(
    names=NAMES,
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    data=st.data(),
    folder=st.sampled_from(["", "deep/" * 30]),
)
@settings(max_examples=25)
def test_what_the_standard_library_writes_is_found(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], form: int, data: st.DataObject, folder: str
) -> None:
    files = {folder + name: data.draw(st.binary(max_size=1200)) for name in names}
    path = pack(tmp_path_factory.mktemp("tar") / "a.tar", files, form)
    assert content(path) == files
    assert all(m.time == 7 and m.refused is None for m in members(path))


def test_ustar_prefixes(tmp_path: Path) -> None:
    files = {"folder" * 20 + "/" + "name" * 20: b"x"}
    assert content(pack(tmp_path / "a.tar", files, tarfile.USTAR_FORMAT)) == files


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = pack(tmp_path_factory.mktemp("tar") / "a.tar", {"a.png": bytes(700), "b.png": b"x" * 600})
    data = path.read_bytes()
    end = 2 * 512 + 1024 + 1024
    path.write_bytes(data[: int(share * end)])
    with pytest.raises(BadTar):
        list(members(path))


@given(place=st.integers(0, 511), bit=st.integers(0, 7))
def test_a_damaged_header_is_refused(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    path = pack(tmp_path_factory.mktemp("tar") / "a.tar", {"a.png": b"1", "b.png": b"2"})
    data = bytearray(path.read_bytes())
    data[1024 + place] ^= 1 << bit
    path.write_bytes(data)
    try:
        found = content(path)
    except ValueError:
        return
    # The sum itself may be written in several ways; nothing else may change unseen.
    assert found == {"a.png": b"1", "b.png": b"2"}
    assert 148 <= place < 156


@given(junk=st.binary(min_size=1, max_size=2000))
def test_anything_else_is_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    path.write_bytes(b"j" + junk)
    with pytest.raises(BadTar):
        list(members(path))


def test_a_compressed_archive_says_so(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"a.png": b"x"}, mode="w:gz")
    with pytest.raises(BadTar, match="decompress it once"):
        list(members(path))


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a/../../b.png", "a\\b.png", "C:a.png"])
def test_names_that_leave_the_archive(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a plain path"):
        list(members(pack(tmp_path / "a.tar", {name: b"x"})))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.CHRTYPE, "device"),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes, said: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    (member,) = members(tmp_path / "a.tar")
    assert said in str(member.refused)


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "99999999999"}
        archive.addfile(info)
    (member,) = members(tmp_path / "a.tar")
    assert "sparse" in str(member.refused)


def test_a_size_that_only_the_extended_header_has(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"size": "99999999999"}
        archive.addfile(info)
    with pytest.raises(BadTar, match="cut off"):
        list(members(path))


def test_a_huge_extended_header_is_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"comment": "x" * 200_000}
        archive.addfile(info)
    with pytest.raises(BadTar, match="header of 200"):
        list(members(tmp_path / "a.tar"))


def test_folders_and_leading_dots_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("./sub")
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
        info = tarfile.TarInfo("./sub/a.png")
        archive.addfile(info)
    assert [m.name for m in members(tmp_path / "a.tar")] == ["sub/a.png"]
