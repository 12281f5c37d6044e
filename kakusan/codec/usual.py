"""What usual methods take for the same pixels, to set beside the codec."""

from __future__ import annotations

import io
import lzma
import zlib

import numpy as np
from PIL import Image
from torch import Tensor


def image(picture: Tensor) -> Image.Image:
    """One picture (C, H, W) uint8 as it is, value by value; channels without a picture mode stand side by side."""
    array = picture.numpy()
    if len(array) == 1 or len(array) > 4:
        return Image.fromarray(np.ascontiguousarray(np.concatenate(list(array), axis=-1)))
    return Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))


def others(pictures: Tensor) -> dict[str, int]:
    """Bytes that usual methods take for the same pixels."""
    raw, total = pictures.numpy().tobytes(), 0
    for picture in pictures:
        file = io.BytesIO()
        image(picture).save(file, "PNG", optimize=True)
        total += file.tell()
    packed = lzma.compress(raw, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}])
    return {"PNG files": total, "zlib, in one": len(zlib.compress(raw, 9)), "lzma, in one": len(packed)}
