"""Animations: GIF and WebP by Pillow, MP4 through the optional extra `video`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kakusan.files import whole_file
from kakusan.report.pictures import Picture, as_images, show

_SAMPLED = 1 << 18
_FLAT_SHARE = 0.004
_FLAT_MOST = 24


def save_gif(frames: Iterable[Picture], path: str | Path, fps: float, *, hold: float = 0.0) -> None:
    """Writes a looping GIF. `fps`: frames a second, at most 50 (the format counts in hundredths of a second and viewers
    slow down what is faster). `hold`: extra seconds the last frame stays.

    One palette serves all frames, so nothing flickers: every colour as it is where 256 suffice, otherwise the flat
    colours of the sheet exactly and the rest by k-means. Error diffusion is used for smooth pictures only; over
    enlarged pixels it would sprinkle each square.
    """
    images = _frames(frames)
    durations = _durations(len(images), fps, hold, most=50)
    indexed = _indexed(images)
    with whole_file(path) as temporary:
        indexed[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=indexed[1:],
            duration=durations,
            loop=0,
            optimize=False,
        )


def save_webp(frames: Iterable[Picture], path: str | Path, fps: float, *, hold: float = 0.0) -> None:
    """Writes a looping, lossless WebP animation: true colours, and smaller than GIF. Arguments as in `save_gif`."""
    images = _frames(frames)
    durations = _durations(len(images), fps, hold, most=1000)
    with whole_file(path) as temporary:
        images[0].save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=images[1:],
            duration=durations,
            loop=0,
            lossless=True,
        )


def save_mp4(frames: Iterable[Picture], path: str | Path, fps: float, *, hold: float = 0.0) -> None:
    """Writes an H.264 MP4 that browsers play. An odd width or height grows by one pixel, as the format needs.

    Raises ModuleNotFoundError, naming the extra to install, where imageio-ffmpeg is absent. Arguments as in `save_gif`.
    """
    images = _frames(frames)
    _durations(len(images), fps, hold, most=1000)
    try:
        ffmpeg: Any = importlib.import_module("imageio_ffmpeg")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'MP4 needs imageio-ffmpeg, which is not installed: pip install "kakusan[video]". '
            "A path that ends in .gif or .webp needs nothing more"
        ) from error
    pixels = [np.asarray(image) for image in images]
    height, width = pixels[0].shape[:2]
    edge = ((0, height % 2), (0, width % 2), (0, 0))
    repeats = [1] * (len(pixels) - 1) + [1 + round(hold * fps)]
    with whole_file(path) as temporary:
        writer = ffmpeg.write_frames(
            str(temporary),
            (width + width % 2, height + height % 2),
            fps=fps,
            codec="libx264",
            pix_fmt_in="rgb24",
            pix_fmt_out="yuv420p",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-crf", "14", "-f", "mp4", "-movflags", "+faststart"],
        )
        try:
            writer.send(None)
            for frame, repeat in zip(pixels, repeats, strict=True):
                content = np.pad(frame, edge, mode="edge").tobytes()
                for _ in range(repeat):
                    writer.send(content)
        finally:
            writer.close()


WRITERS: dict[str, Callable[..., None]] = {".gif": save_gif, ".mp4": save_mp4, ".webp": save_webp}
"""The writer of each file suffix. Add an entry to support another."""


def save_animation(frames: Iterable[Picture], path: str | Path, fps: float, *, hold: float = 0.0) -> None:
    """Writes an animation in the form that the suffix of `path` names (see `WRITERS`)."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"{path} ends in {suffix!r}; an animation's name ends in one of {', '.join(WRITERS)}")
    WRITERS[suffix](frames, path, fps, hold=hold)


def _frames(frames: Iterable[Picture]) -> list[Image.Image]:
    images = [show(image) for image in as_images(frames, what="frames")]
    for index, image in enumerate(images):
        if image.size != images[0].size:
            raise ValueError(f"frame {index} is {image.size}, the first {images[0].size}; all must be of one size")
    return images


def _durations(count: int, fps: float, hold: float, *, most: float) -> list[int]:
    """Milliseconds of each frame, in hundredths of a second, rounded so that they add up to the asked speed."""
    if not 0 < fps <= most:
        raise ValueError(f"fps is {fps}; expected more than 0 and at most {most:g} frames a second")
    if not 0 <= hold <= 600:
        raise ValueError(f"hold is {hold}; expected 0 to 600 seconds")
    unit = 100 if most <= 100 else 1000
    ends = [round(unit * (k + 1) / fps) for k in range(count)]
    durations = [(end - start) * (1000 // unit) for start, end in zip([0, *ends], ends, strict=False)]
    durations[-1] += 10 * round(100 * hold)
    return durations


def _indexed(images: Sequence[Image.Image]) -> list[Image.Image]:
    """The frames in mode P over one common palette."""
    packed = [_packed(image) for image in images]
    colours, counts = _colours(packed)
    flat = colours if len(colours) <= 256 else _flat(colours, counts)
    palette = flat if len(colours) <= 256 else np.concatenate([flat, _spread(images, flat)])
    # Pillow's own search rounds colours to a coarse cube, where paper and a near-white would become one.
    table = np.zeros(1 << 24, np.uint8)
    table[colours] = _nearest(colours, palette)
    diffuse = len(colours) > 256 and not _enlarged(packed)
    bare = Image.new("P", (1, 1))
    bare.putpalette(_split(palette).tobytes())
    frames = []
    for image, values in zip(images, packed, strict=True):
        indices = table[values]
        if diffuse:
            diffused = np.asarray(image.quantize(palette=bare, dither=Image.Dither.FLOYDSTEINBERG))
            indices = np.where(indices < len(flat), indices, diffused)
        frame = Image.fromarray(indices)
        # On a gray image this sets the palette and leaves the indices as they are.
        frame.putpalette(_split(palette).tobytes())
        frames.append(frame)
    return frames


def _packed(image: Image.Image) -> npt.NDArray[np.uint32]:
    """Colours (H, W), each as one integer 0xRRGGBB."""
    pixels = np.asarray(image).astype(np.uint32)
    return (pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]).astype(np.uint32)


def _split(packed: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)


def _colours(packed: Sequence[npt.NDArray[np.uint32]]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
    """Every colour in any frame, rising, and how often it occurs."""
    found = [np.unique(values, return_counts=True) for values in packed]
    colours, place = np.unique(np.concatenate([values for values, _ in found]), return_inverse=True)
    total = np.bincount(place, weights=np.concatenate([counts for _, counts in found]))
    return colours, total.astype(np.float64)


def _flat(colours: npt.NDArray[np.uint32], counts: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
    """The few colours that fill areas, as paper does."""
    most = np.argsort(-counts, kind="stable")[:_FLAT_MOST]
    return colours[most[counts[most] >= _FLAT_SHARE * counts.sum()]]


def _spread(images: Sequence[Image.Image], flat: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Colours for all that is not flat, as many as the palette has left."""
    sample = _sample(images)
    rest = sample[~np.isin(_packed(Image.fromarray(sample[None]))[0], flat)]
    if len(rest) == 0:
        return np.empty(0, np.uint32)
    # Spread over the whole gamut, then settled by k-means: less than half the error of median cut on noise.
    found = Image.fromarray(rest[None]).quantize(256 - len(flat), method=Image.Quantize.MAXCOVERAGE, kmeans=1)
    palette = np.array(found.getpalette(), np.uint8).reshape(1, -1, 3)[:, : 256 - len(flat)]
    return _packed(Image.fromarray(palette))[0]


def _nearest(colours: npt.NDArray[np.uint32], palette: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """For each colour, the index of the nearest colour of the palette."""
    ours = _split(palette).astype(np.float32)
    indices = []
    for start in range(0, len(colours), 1 << 16):
        theirs = _split(colours[start : start + (1 << 16)]).astype(np.float32)
        # |a - b|^2 without its constant part; exact, since every term is an integer below 2^24.
        indices.append(np.argmin((ours**2).sum(1) - 2 * theirs @ ours.T, axis=1))
    return np.concatenate(indices)


def _enlarged(packed: Sequence[npt.NDArray[np.uint32]]) -> bool:
    """Whether the frames are mostly squares of one colour, as pictures enlarged for showing are."""
    same = sum(int((values[:, 1:] == values[:, :-1]).sum()) for values in packed)
    return same >= 0.45 * sum(values[:, 1:].size for values in packed)


def _sample(images: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
    """Pixels (N, 3) taken at an even stride over all frames."""
    per_frame = max(1, _SAMPLED // len(images))
    rows = []
    for image in images:
        pixels = np.asarray(image).reshape(-1, 3)
        rows.append(pixels[:: max(1, len(pixels) // per_frame)])
    return np.concatenate(rows)
