"""The lab of one set: figures, animations and a page with a time slider, in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from kakusan import __version__
from kakusan.choices import SCHEDULES, choose
from kakusan.data.toys import TOYS
from kakusan.extras import need
from kakusan.grids import GRIDS
from kakusan.lab import LANGUAGES, Lab, figure_words, lab_page, save
from kakusan.lab.learning import learnt
from kakusan.report.animation import save_animation
from kakusan.samplers import SAMPLERS

FORMATS = {"png": "figures", "gif": "animations", "mp4": "animations", "html": "the page"}


def run_lab(
    name: str,
    out: Path,
    *,
    schedule: str = "vp",
    sampler: str = "dpmpp-2m",
    num_steps: int = 20,
    grid: str = "karras",
    points: int = 128,
    seed: int = 0,
    train: float = 0.0,
    formats: Sequence[str] = ("png", "gif", "html"),
    frames: int = 48,
    language: str = "en",
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draw everything of a set into `out`; returns the files written.

    Args:
        name: of the set, in `kakusan.data.toys.TOYS`.
        train: seconds of training for a network in place of the exact denoiser; 0 takes the exact one.
        formats: names of `FORMATS`.
        frames: of an animation.
        language: of the page, and of pictures where a font of the system can draw it; a name of `LANGUAGES`.
        say: gets a line for each file.

    Raises:
        ValueError: a name that does not exist, or a number out of range; before anything is drawn.
    """
    for each in formats:
        choose(FORMATS, each, "format")
    if "mp4" in formats:
        need("imageio_ffmpeg", extra="video", what="MP4")
    if train < 0.0 or frames < 2 or not formats:
        raise ValueError(f"train is at least 0 seconds, frames at least 2, and one format is needed; got {train=}, "
                         f"{frames=}, formats={','.join(formats)!r}")  # fmt: skip
    toy, path = choose(TOYS, name, "set"), choose(SCHEDULES, schedule, "schedule")
    chosen, spacing = choose(SAMPLERS, sampler, "sampler"), choose(GRIDS, grid, "grid")
    words = choose(LANGUAGES, language, "language")
    lab = Lab(name, toy, path, sampler, chosen, num_steps, spacing, points, seed, words=words)
    if train:
        lab = replace(lab, trained=learnt(toy, path, train, seed, say))
    record = {"kind": "lab", "set": name, "schedule": schedule, "sampler": sampler, "num_steps": num_steps,
              "grid": grid, "points": points, "seed": seed, "train": train, "version": __version__}  # fmt: skip
    if figure_words(words) is not words and set(formats) != {"html"}:
        say("no font of this system has Japanese letters: figures and animations are in English, the page is not")
    written = []

    def wrote(file: Path) -> None:
        written.append(file)
        say(f"wrote {file}")

    if "png" in formats:
        for what, figure in lab.figures().items():
            save(figure, out / f"{what}.png", {**record, "figure": what})
            wrote(out / f"{what}.png")
    suffixes = [each for each in formats if each in ("gif", "mp4")]
    if suffixes:
        for what, pictures in lab.animations(frames=frames).items():
            for suffix in suffixes:
                save_animation(pictures, out / f"{what}.{suffix}", 12.0, hold=1.0)
                wrote(out / f"{what}.{suffix}")
    if "html" in formats:
        again = f"kakusan lab {name} --schedule {schedule} --sampler {sampler} --steps {num_steps} --grid {grid}"
        again += f" --points {points} --seed {seed}" + (f" --train {train:g}" if train else "")
        again += f" --language {language}" if language != "en" else ""
        lab_page(lab, again).write(out / "lab.html")
        wrote(out / "lab.html")
    return written
