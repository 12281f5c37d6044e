"""The file: magic, a short JSON header, the coder's words, a checksum. Nothing in it is ever executed.

    b"\\x89KKS" | version (1 byte) | length of the header (2 bytes) | header | words (4 bytes each) | CRC-32 (4 bytes)

Numbers are little endian. The header is JSON, deflated against a fixed dictionary of its usual words, because a set of
small pictures is coded in a few kilobytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kakusan.codec.stack import Words

MAGIC = b"\x89KKS"
VERSION = 1
_START = struct.Struct("<4sBH")
_MAX_HEADER = 1 << 16
# Part of the format: a change here is a new version. zlib prefers what stands near the end.
_DICTIONARY = (
    b'0123456789abcdef"cuda:0""mps","kakusan":"0.1.0","weights":"ema""raw","labels":true,"bins":8,"classes":10,'
    b'"matmul":"highest""high","torch":"2.1.0+cpu","constriction":"0.4.5.0","threads":1,"device":"cpu",'
    b'"matmul":"medium","high":255,"labels":false,"shape":[3,32,32],"low":0,"high":16,"bins":4,"steps":100,'
    b'"spread":"","grid":"","groups":"ppp00011122334455555555210","digest":"","count":10,"model":"'
)


class CorruptFile(ValueError):
    """A file that is damaged, cut short, foreign, or of a version this one cannot read."""


def pack(header: Mapping[str, Any], words: Words) -> bytes:
    """The bytes of a file."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)
    small = packer.compress(text) + packer.flush()
    if len(text) > _MAX_HEADER or len(small) >= _MAX_HEADER:
        raise ValueError("the header of this file would be larger than 64 KiB; use fewer steps")
    body = _START.pack(MAGIC, VERSION, len(small)) + small + words.astype("<u4").tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(data: bytes) -> tuple[dict[str, Any], Words]:
    """(header, words) of a file.

    Raises:
        CorruptFile: not such a file, damaged or cut short.
    """
    if not data.startswith(MAGIC):
        raise CorruptFile("this is not a file written by `kakusan compress`")
    if len(data) < _START.size + 4:
        raise CorruptFile("this file is cut short")
    _, version, length = _START.unpack_from(data)
    if version != VERSION:
        raise CorruptFile(f"this file has format {version}; this version of kakusan reads format {VERSION}")
    if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise CorruptFile("this file is damaged or cut short: its checksum is wrong; get it again from its source")
    end = _START.size + length
    if end > len(data) - 4 or (len(data) - 4 - end) % 4:
        raise CorruptFile("this file is damaged: its parts do not add up")
    return _header(data[_START.size : end]), np.frombuffer(data[end:-4], "<u4").astype(np.uint32)


def _header(small: bytes) -> dict[str, Any]:
    opener = zlib.decompressobj(-15, _DICTIONARY)
    try:
        text = opener.decompress(small, _MAX_HEADER + 1)
        header = json.loads(text.decode("ascii")) if len(text) <= _MAX_HEADER else None
    except (zlib.error, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CorruptFile(f"the header of this file is damaged: {error}") from None
    if not isinstance(header, dict):
        raise CorruptFile("the header of this file is damaged")
    return header
