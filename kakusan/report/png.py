"""PNG files that carry what recreates them.

Two text chunks (iTXt, UTF-8) are written: `kakusan`, a JSON envelope `{"schema": 1, "record": {...}}`, and
`parameters`, the paragraph that image browsers show. Only the first is ever read back. Files come from strangers: the
reader walks the chunks itself, decodes no pixel, and inflates no text beyond a fixed size.
Format: PNG specification, third edition (W3C 2025), sections 5.3 and 11.3.3.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kakusan.files import whole_file
from kakusan.report.pictures import gray16

SCHEMA = 1
MAX_TEXT = 1 << 20
"""Largest record, in bytes of JSON, that is written or read."""

_KEY = "kakusan"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"iTXt", b"tEXt", b"zTXt")
_MAX_CHUNKS = 1 << 20
_SAVED_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_FOREIGN = {
    b"parameters": "an A1111-style program",
    b"prompt": "ComfyUI",
    b"workflow": "ComfyUI",
    b"invokeai_metadata": "InvokeAI",
}
_KINDS = (
    (b"\xff\xd8\xff", "a JPEG"),
    (b"GIF8", "a GIF"),
    (b"RIFF", "a RIFF file (WebP, perhaps)"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x80\x02", "a pickle"),
    (b"<", "markup (SVG or HTML, perhaps)"),
)


def save_png(
    image: Image.Image, path: str | Path, record: Mapping[str, Any] | None = None, *, parameters: str | None = None
) -> None:
    """Writes `image` as PNG with `record` in it, whole or not at all.

    `image`: mode 1, L, LA, P, RGB, RGBA, or 16-bit gray ("I;16", or "I" within 0..65535). `record`: JSON values only;
    None writes no text. `parameters`: the text for image browsers, by default `parameters_text(record)`.

    Raises ValueError for another mode and for a record that JSON cannot hold or that is over 1 MiB.
    """
    image, texts = _ready(image, record, parameters)
    with whole_file(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=texts)


def png_bytes(image: Image.Image, record: Mapping[str, Any] | None = None) -> bytes:
    """The content of the file that `save_png` would write."""
    image, texts = _ready(image, record, None)
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=texts)
    return file.getvalue()


def _ready(image: Image.Image, record: Mapping[str, Any] | None, parameters: str | None) -> tuple[Image.Image, PngInfo]:
    if image.mode.startswith("I"):
        image = Image.fromarray(gray16(image).astype("<u2"))
    if image.mode not in _SAVED_MODES:
        raise ValueError(
            f"a picture of Pillow mode {image.mode!r} has no PNG form; convert it to one of {', '.join(_SAVED_MODES)}"
        )
    texts = PngInfo()
    if record is not None:
        texts.add_itxt(_KEY, _to_json(record))
        text = parameters_text(record, size=image.size) if parameters is None else parameters
        texts.add_itxt("parameters", _plain(text))
    return image, texts


def read_record(path: str | Path) -> dict[str, Any]:
    """The record that `save_png` put into a PNG file.

    Raises ValueError where the file is not a PNG, is damaged, has no record of kakusan's, or has one that is too large,
    malformed or of a newer schema; OSError where it cannot be read at all.
    """
    found: list[bytes] = []
    keywords: set[bytes] = set()
    with open(path, "rb") as file:
        for kind, body in _text_chunks(file, path):
            keyword, _, rest = body.partition(b"\0")
            keywords.add(keyword)
            if keyword == _KEY.encode():
                found.append(_text(kind, rest, path))
    if not found:
        others = sorted({name for key, name in _FOREIGN.items() if key in keywords})
        written = f"; it looks like one written by {' or '.join(others)}" if others else ""
        raise ValueError(
            f"{path} holds no record of kakusan's{written}. Only PNG files saved by kakusan, and not re-saved by a "
            "program that drops their text, can be recreated"
        )
    if len(found) > 1:
        _damaged(path, f"it holds {len(found)} records where one is expected")
    return _from_json(found[0], path)


def read_pixels(path: str | Path) -> Image.Image:
    """The picture of a PNG file, loaded, in the mode it was saved in.

    Raises ValueError where the file is not a whole PNG or is large enough to be a decompression bomb.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            return image
    except (SyntaxError, struct.error, zlib.error, Image.DecompressionBombError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ValueError(f"{path} is not a PNG picture that can be read: {error}") from error


def parameters_text(record: Mapping[str, Any], *, size: tuple[int, int] | None = None) -> str:
    """A record in the paragraph form that image browsers know: prompt, negative prompt, then `Key: value, ...`.

    The prompt is `record["prompt"]`, else `record["caption"]`, else `record["label"]`. Objects are named by their
    `type`; other nested values are left to the JSON record. `size`: width and height in pixels.
    """
    lead = next((k for k in ("prompt", "caption", "label") if isinstance(record.get(k), str)), None)
    lines = ["" if lead is None else str(record[lead])]
    negative = record.get("negative_prompt")
    if isinstance(negative, str) and negative:
        lines.append(f"Negative prompt: {negative}")
    names = {"num_steps": "Steps", "guidance_scale": "CFG scale", "model_hash": "Model hash"}
    order = ["num_steps", "sampler", "guidance_scale", "seed", "model_hash", "model"]
    keys = [k for k in order if k in record] + [k for k in record if k not in order]
    fields = []
    for key in keys:
        value = record[key]
        if isinstance(value, Mapping):
            value = value.get("type")
        if key in (lead, "negative_prompt") or not isinstance(value, str | int | float):
            continue
        fields.append(f"{names.get(key, key.replace('_', ' ').capitalize())}: {_quoted(str(value))}")
    if size is not None:
        fields.append(f"Size: {size[0]}x{size[1]}")
    lines.append(", ".join(fields))
    return "\n".join(line for line in lines if line)


def _quoted(value: str) -> str:
    # Readers split the last line at commas and colons, so a value that holds one is written as a JSON string.
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ',:\n"') else value


def _plain(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", errors="replace").decode("utf-8")


def _to_json(record: Mapping[str, Any]) -> str:
    envelope = {"schema": SCHEMA, "record": dict(record)}
    try:
        _check_keys(record)
        text = json.dumps(envelope, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"this record cannot be kept in a picture ({why}); expected finite JSON values") from error
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        text = json.dumps(envelope, ensure_ascii=True, allow_nan=False)
        size = len(text)
    if size > MAX_TEXT:
        raise ValueError(f"this record is {size:,} bytes of JSON; at most {MAX_TEXT:,} are kept in a picture")
    return text


def _check_keys(value: Any) -> None:
    # json would turn the key 1 into "1" without a word, and the record read back would be another one.
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not a string")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)


def _from_json(text: bytes, path: str | Path) -> dict[str, Any]:
    try:
        envelope = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _damaged(path, f"its record is not JSON ({error})")
    if not isinstance(envelope, dict) or type(envelope.get("schema")) is not int:
        _damaged(path, "its record has no schema number")
    if envelope["schema"] > SCHEMA:
        raise ValueError(
            f"{path} has a record of schema {envelope['schema']}; this kakusan knows schema {SCHEMA}. "
            "Read it with a newer kakusan"
        )
    if envelope["schema"] < 1 or not isinstance(envelope.get("record"), dict):
        _damaged(path, "its record is not of the form this kakusan writes")
    record: dict[str, Any] = envelope["record"]
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _damaged(path: str | Path, why: str) -> NoReturn:
    raise ValueError(f"{path} is damaged or was altered: {why}")


def _text_chunks(file: BinaryIO, path: str | Path) -> Iterator[tuple[bytes, bytes]]:
    """Every text chunk up to IEND. Other chunks are stepped over unread, whatever they claim to hold."""
    signature = file.read(8)
    if signature != _SIGNATURE:
        kind = next((name for start, name in _KINDS if signature.startswith(start)), "empty" if not signature else None)
        says = f" but {kind}" if kind else ""
        raise ValueError(f"{path} is not a PNG file{says}; records of kakusan's are kept in PNG files")
    end = os.fstat(file.fileno()).st_size
    for _ in range(_MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            _damaged(path, "it ends before its last chunk")
        length, kind = struct.unpack(">I4s", header)
        if length + 4 > end - file.tell():
            _damaged(path, f"it is cut off inside a chunk ({kind!r})")
        if kind == b"IEND":
            return
        following = file.tell() + length + 4
        if kind not in _TEXT_CHUNKS or length > MAX_TEXT + 1024:
            # Too long for us to have written: the keyword alone tells whether it claims to be ours.
            if kind in _TEXT_CHUNKS and file.read(len(_KEY) + 1) == _KEY.encode() + b"\0":
                _damaged(path, f"its record is {length:,} bytes, more than {MAX_TEXT:,}")
            file.seek(following)
            continue
        body = file.read(length)
        if zlib.crc32(kind + body) != struct.unpack(">I", file.read(4))[0]:
            _damaged(path, f"the checksum of a text chunk ({kind!r}) is wrong")
        yield kind, body
    _damaged(path, f"it has more than {_MAX_CHUNKS:,} chunks")


def _text(kind: bytes, rest: bytes, path: str | Path) -> bytes:
    """The UTF-8 text of a chunk whose keyword and its NUL are taken off already."""
    if kind == b"tEXt":
        return rest.decode("latin-1").encode("utf-8")
    if kind == b"zTXt":
        if rest[:1] != b"\0":
            _damaged(path, "its record uses an unknown compression")
        return _inflate(rest[1:], path).decode("latin-1").encode("utf-8")
    flags, rest = rest[:2], rest[2:]
    _, found_language, rest = rest.partition(b"\0")
    _, found_keyword, text = rest.partition(b"\0")
    if len(flags) < 2 or not found_language or not found_keyword or flags not in (b"\0\0", b"\0\1", b"\1\0"):
        _damaged(path, "its record is not a well-formed iTXt chunk")
    return _inflate(text, path) if flags[0] else text


def _inflate(packed: bytes, path: str | Path) -> bytes:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed, MAX_TEXT + 1)
    except zlib.error as error:
        _damaged(path, f"its record cannot be inflated ({error})")
    if len(text) > MAX_TEXT:
        _damaged(path, f"its record inflates to more than {MAX_TEXT:,} bytes")
    if not inflater.eof:
        _damaged(path, "its record is cut off")
    return text
