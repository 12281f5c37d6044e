"""Published designs of several models, as lists of commands that anyone could type one after the other.

A design imports no torch. What it leaves behind is a folder of runs and `design.json`, which says how all of them
together draw pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kakusan.files import write_text

FILE = "design.json"


@dataclass(frozen=True)
class DesignSettings:
    """What a design is trained on, and for how long.

    Args:
        data: pictures with captions, as of kakusan train.
        out: folder of the design.
        size: side of the pictures that are drawn in the end.
        base: side of those drawn first; half of `size` when None.
        minutes: for all stages together.
        width: channels of the first model; the one that enlarges has half as many.
        encoder: folder of an encoder of texts (a CLIP or T5) for designs that take one ready-made.
        more: further options of kakusan train for every model, names and values in turn: ("--num", "4000").
        apart: the same for single stages, by their names, of whatever command they are.

    Raises:
        ValueError: sides that the enlarging model cannot bridge.
    """

    data: str = "flowers:words"
    out: Path = Path("runs/design")
    size: int = 32
    base: int | None = None
    minutes: float = 60.0
    width: int = 48
    encoder: Path | None = None
    more: tuple[str, ...] = ()
    apart: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.size != self.factor * self.first or self.factor not in (2, 4):
            raise ValueError(
                f"pictures of {self.first} pixels are enlarged 2 or 4 times, which does not give {self.size}; "
                "choose --size and --base so that one is twice or four times the other"
            )
        if not 0.0 < self.minutes < float("inf"):
            raise ValueError(f"minutes must be a positive number, got {self.minutes}")

    @property
    def first(self) -> int:
        """Side of the pictures drawn first."""
        return max(1, self.size // 2) if self.base is None else self.base

    @property
    def factor(self) -> int:
        """How many times they are enlarged."""
        return max(1, self.size // self.first)


@dataclass(frozen=True)
class Stage:
    """One command of a design.

    Args:
        name: of its folder in the design's.
        does: a line for people.
        command: words after `kakusan`, without --out and --minutes.
        share: of the minutes.
    """

    name: str
    does: str
    command: tuple[str, ...]
    share: float

    def arguments(self, settings: DesignSettings) -> list[str]:
        """The whole command, without `kakusan`."""
        return [
            *self.command,
            "--minutes",
            f"{self.share * settings.minutes:g}",
            "--out",
            str(settings.out / self.name),
            *settings.apart.get(self.name, ()),
        ]


@dataclass(frozen=True)
class Drawing:
    """How a trained design draws: `base`, then each of `upscalers`; names of stages.

    Args:
        prior: draws the CLIP vectors that `base` makes pictures of.
        paint: a model that paints holes by a text (`kakusan transform --mask`).
        guidance: usual guidance scale of the base model; a text says less of a picture than a class does.
        upscaler_guidance: and of those that enlarge, where they read texts.
        threshold: quantile of dynamic thresholding; None for none.
    """

    base: str
    upscalers: tuple[str, ...] = ()
    prior: str | None = None
    paint: str | None = None
    guidance: float = 2.0
    upscaler_guidance: float = 1.0
    threshold: float | None = None


@dataclass(frozen=True)
class Design:
    """A published design.

    Args:
        paper: where it comes from.
        stages: its commands, from settings.
        drawing: how it draws.
    """

    paper: str
    stages: Callable[[DesignSettings], Sequence[Stage]]
    drawing: Drawing = field(default_factory=lambda: Drawing("base", ("upscale",)))


def _clip(s: DesignSettings, share: float) -> Stage:
    command = ("train-clip", "--data", s.data, "--size", str(s.first), *_count(s))
    return Stage("clip", "pictures and texts in one space", command, share)


def _model(s: DesignSettings, *options: str, large: bool = False, latents: bool = False) -> tuple[str, ...]:
    """kakusan train at the first or at the last size, small enough for a laptop."""
    width, side = (max(16, s.width // 2), s.size) if large else (s.width, s.size if latents else s.first)
    # Patches bring every size to at most 16 positions a side, where a step costs about the same; latents are there.
    patch = 1 if latents else max(1, side // 16)
    sizes = ("--size", str(side), "--width", str(width), "--multipliers", "1", "2", "2", "--depth", "1")
    speed = ("--patch", str(patch), "--batch", "32", "--optimizer", "muon", "--rate", "0.01", "--warmup", "80")
    return ("train", "--data", s.data, *sizes, *speed, "--decay", "0.5", "--watch", "0", *options, *s.more)


def _count(s: DesignSettings, *, texts: bool = True) -> tuple[str, ...]:
    """Of the further options, what every verb understands: how many pictures, and by what means; `texts` for those that
    read captions.
    """
    known = {"--num", "--seed", "--device", "--threads", "--steps", *(("--captions",) if texts else ())}
    given = zip(s.more[::2], s.more[1::2], strict=True)
    return tuple(word for name, value in given if name in known for word in (name, value))


def latent(s: DesignSettings) -> list[Stage]:
    """A reader of texts that stays as it is, an autoencoder, and a model of its latents."""
    reading, folder = _texts(s, 0.1)
    # To a grid of 16 to 31 places a side, which minutes on a CPU can train; above 255 pixels to one of size / 8.
    factor = next((f for f in (8, 4) if s.size >= 16 * f), 2)
    coder = ("train-autoencoder", "--data", s.data, "--size", str(s.size), "--factor", str(factor))
    base = ("--autoencoder", str(s.out / "autoencoder"), "--text", folder, "--times", "logit-normal")
    left = 1.0 - sum(stage.share for stage in reading)
    return [
        *reading,
        Stage("autoencoder", "pictures to latents and back", (*coder, *_count(s, texts=False)), 0.1),
        Stage("base", "texts to latents", _model(s, "--attention-levels", *base, latents=True), left - 0.1),
    ]


def _texts(s: DesignSettings, share: float) -> tuple[list[Stage], str]:
    """(the stage that learns to read, if none was given, folder of what reads)."""
    if s.encoder is not None:
        return [], str(s.encoder)
    return [_clip(s, share)], str(s.out / "clip")


def glide(s: DesignSettings) -> list[Stage]:
    """Tokens of a transformer trained along, guidance without a classifier, and a fine-tune that paints holes."""
    own = ("--text", "own") if s.encoder is None else ("--text", str(s.encoder))
    enlarge = ("--pair", f"upscale-{s.factor}", *own)
    base = str(s.out / "base")
    return [
        Stage("base", "texts to small pictures", _model(s, *own), 0.6),
        Stage(
            "paint",
            "the same model learns to paint holes",
            _model(s, *own, "--pair", "masked", "--init-from", base),
            0.15,
        ),
        Stage("upscale", "small pictures and texts to large ones", _model(s, *enlarge, large=True), 0.25),
    ]


def dalle2(s: DesignSettings) -> list[Stage]:
    """CLIP, a prior from texts to its vectors of pictures, a decoder of those, and a model that enlarges."""
    clip = str(s.out / "clip")
    enlarge = ("--pair", f"upscale-{s.factor}", "--no-conditional")
    prior = ("train-prior", "--clip", clip, "--data", s.data, "--size", str(s.first), *_count(s))
    return [
        _clip(s, 0.1),
        Stage("prior", "texts to CLIP vectors of pictures", prior, 0.2),
        Stage("base", "CLIP vectors to small pictures", _model(s, "--clip-vectors", clip), 0.45),
        Stage("upscale", "small pictures to large ones", _model(s, *enlarge, large=True), 0.25),
    ]


def imagen(s: DesignSettings) -> list[Stage]:
    """A reader of texts that stays as it is, a base model, and one that enlarges noisy copies, both led by the text."""
    reading, folder = _texts(s, 0.1)
    enlarge = ("--pair", f"upscale-{s.factor}", "--text", folder)
    left = 1.0 - sum(stage.share for stage in reading)
    return [
        *reading,
        Stage("base", "texts to small pictures", _model(s, "--text", folder), 0.6 * left),
        Stage(
            "upscale", "small pictures under noise and texts to large ones", _model(s, *enlarge, large=True), 0.4 * left
        ),
    ]


DESIGNS: Mapping[str, Design] = {
    "latent": Design("Rombach et al. 2022, arXiv 2112.10752", latent, Drawing("base")),
    "glide": Design("Nichol et al. 2021, arXiv 2112.10741", glide, Drawing("base", ("upscale",), paint="paint")),
    "dalle2": Design("Ramesh et al. 2022, arXiv 2204.06125", dalle2, Drawing("base", ("upscale",), prior="prior")),
    "imagen": Design("Saharia et al. 2022, arXiv 2205.11487", imagen, Drawing("base", ("upscale",), threshold=0.995)),
}


def write_drawing(name: str, folder: Path) -> None:
    """Say in the folder of a design how it draws."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"design": name, "paper": DESIGNS[name].paper, **asdict(DESIGNS[name].drawing)}, indent=1)
    write_text(folder / FILE, text + "\n")


def read_drawing(folder: Path) -> Drawing | None:
    """How the design in a folder draws; None where there is no design.

    Raises:
        ValueError: a damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = {key: found[key] for key in Drawing.__dataclass_fields__}
        drawing = Drawing(**{**known, "upscalers": tuple(known["upscalers"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say how a design draws: {error}") from None
    names = [drawing.base, *drawing.upscalers, drawing.prior or "", drawing.paint or ""]
    if not all(isinstance(name, str) and "/" not in name and "\\" not in name and name != ".." for name in names):
        raise ValueError(f"{path} names stages outside its folder")
    return drawing
