"""Settings of a training run: frozen dataclasses, TOML, and the order of precedence.

defaults < recipe < file < command line. An unknown key is an error with a suggestion. This module imports no torch, so
that the command line answers at once.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from kakusan.specs import suggestion
from kakusan.train.data_settings import CaptionedSettings as CaptionedSettings
from kakusan.train.data_settings import DataSettings as DataSettings
from kakusan.train.data_settings import PictureSettings as PictureSettings
from kakusan.train.optim import OptimSettings
from kakusan.train.option_kinds import MaybeBool as MaybeBool
from kakusan.train.option_kinds import MaybeFloat as MaybeFloat
from kakusan.train.option_kinds import MaybeInt as MaybeInt
from kakusan.train.option_kinds import MaybeInts as MaybeInts
from kakusan.train.option_kinds import MaybePath as MaybePath
from kakusan.train.option_kinds import MaybeText as MaybeText
from kakusan.train.option_kinds import arg
from kakusan.train.vector_settings import VectorSettings

T = TypeVar("T")


@dataclass(frozen=True)
class ModelSettings:
    """The network and the process.

    Args:
        backbone: unet, edm2 (a U-Net that preserves magnitudes) or dit (a transformer).
        width: channels at the highest resolution, or features of a token: the one dial for the size of the network.
        multipliers: channels of each level over the width; found from the size when empty.
        depth: blocks in each level.
        attention_levels: levels with self-attention, 0 is the highest resolution; found from the size when not given.
        blocks: residual or convnext.
        attention: softmax or linear.
        patch: side of the patches that the network sees as one position; 2 makes it about four times as fast.
        dropout: inside the blocks.
        layers: blocks of a dit; found from the width when not given.
        heads: of a dit; 64 wide each when not given.
        registers: learned tokens of a dit beside its patches.
        bottleneck: features between a patch and its token in a dit; helps with large patches, 0 for none.
        value_residual: mix the values of a dit's attention with those of its first block.
        route: share of a dit's tokens that skip its middle blocks in training, which makes steps cheaper.
        schedule: noise schedule (cosine, vp, rectified, karras, ..., or learned).
        shift: SNR shift of the schedule; above 1 for large pictures.
        parameterization: what the network predicts (v, eps, x0, velocity, edm, score).
        variance: fixed, or learned (the variance of a reverse step; needs the loss hybrid).
        fourier: give the network waves of its input, which likelihoods of fine levels gain from.
        conditional: use the classes of the data as conditions, when it has any.
        condition_dropout: how often the class is dropped in training; 0 makes guidance impossible.
        control: a trained run that stays as it is while a branch beside it learns to follow a picture (`kakusan
            train-control`); the other settings of the model are then its own.
    """

    backbone: str = "unet"
    width: int = 64
    multipliers: tuple[int, ...] = ()
    depth: int = 2
    attention_levels: MaybeInts = None
    blocks: str = "residual"
    attention: str = "softmax"
    patch: int = 1
    dropout: float = 0.0
    layers: MaybeInt = None
    heads: MaybeInt = None
    registers: int = 0
    bottleneck: int = 0
    value_residual: bool = False
    route: float = 0.0
    schedule: str = "cosine"
    shift: float = 1.0
    parameterization: str = "v"
    variance: str = "fixed"
    fourier: bool = False
    conditional: bool = True
    condition_dropout: float = 0.1
    control: MaybeText = None


@dataclass(frozen=True)
class TextSettings:
    """Words as conditions: train on the captions of the pictures, and ask the model with texts.

    Args:
        encoder: what reads texts: own (a small transformer that is trained along), or the folder of a trained CLIP
            (`kakusan train-clip`) or of a pretrained CLIP or T5, which then stays as it is. None for a model without.
        vocabulary: of own: tokens that are learned from the captions.
        length: of own: the most tokens of a text.
        width: of own: features of a token.
        layers: of own.
        read_layer: of a pretrained encoder: the layer whose output is read, counted from the end; -2 is the last but
            one, -1 the last.
        precision: of a pretrained encoder: float32, bfloat16 or float16.
    """

    encoder: Annotated[MaybeText, arg(name="text", metavar="STR", help_behavior_hint="")] = None
    vocabulary: int = 2048
    length: Annotated[int, arg(name="text-length")] = 64
    width: Annotated[int, arg(name="text-width")] = 128
    layers: Annotated[int, arg(name="text-layers")] = 3
    read_layer: Annotated[int, arg(name="text-read-layer")] = -1
    precision: Annotated[str, arg(name="text-precision")] = "float32"

    def __post_init__(self) -> None:
        for name, least in (("vocabulary", 300), ("length", 4), ("width", 16), ("layers", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of [text] must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class ObjectiveSettings:
    """What training minimises.

    Args:
        times: density of training times (uniform, log-snr, logit-normal, log-normal-sigma, discrete).
        stratified: spread the times of neighbouring samples evenly.
        weighting: simple, simple-v, simple-x0, flow-matching, score-matching, elbo, sigmoid, min-snr or edm.
        distance: squared, absolute or pseudo-huber.
        loss: weighted (the error, weighted), hybrid (also the bound of the chain, for a learned variance) or
            variational (the continuous bound itself, in nats/dim).
        coupling: which noise goes with which sample (independent, transport).
    """

    times: str = "uniform"
    stratified: bool = True
    weighting: str = "simple-v"
    distance: str = "squared"
    loss: str = "weighted"
    coupling: str = "independent"


@dataclass(frozen=True)
class EngineSettings:
    """How a step is computed. None of this changes the curve beyond rounding, nor what is saved.

    Args:
        compile: compile the network (torch.compile); what was measured to be faster on the device when not given.
        channels_last: maps with their channels last in memory; what was measured to be faster when not given.
        checkpointing: compute activations again in the backward pass: less memory, about a third more time.
        micro_batch: samples that pass through the network at once; the whole batch when not given. Halved by itself
            when memory runs out.
        parallel: how several processes (torchrun) share a step: ddp (each holds the whole model) or fsdp (each a part).
    """

    compile: MaybeBool = None
    channels_last: MaybeBool = None
    checkpointing: bool = False
    micro_batch: MaybeInt = None
    parallel: str = "ddp"

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch counts the samples computed at once, at least 1; got {self.micro_batch}")


@dataclass(frozen=True)
class RunSettings:
    """The run itself.

    Args:
        steps: length of the run in optimizer steps.
        minutes: length of the run in minutes, when no steps are given; the steps are planned from the measured speed.
        batch: samples in a step.
        seed: of everything random.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto, fp32 or bf16.
        threads: of the CPU; all or one, whichever is faster when the run starts, when not given.
        ema: widths of the weight averages, as fractions of the run; the first is the one that is sampled.
        measurements: how often in the run the held-out loss is measured.
        previews: how often in the run samples are drawn, beside the start and the end; 0 draws none at all.
        checkpoints: how often in the run a checkpoint is written, beside the one at the end.
        spaced: how many of the checkpoints are kept for good, beside the last two and the best.
        snapshots: how often in the run the averages are stored, so that `kakusan ema` can rebuild others of any width;
            each takes two bytes for each parameter and average.
        watch: how often in the run samples are drawn and their distances to real pictures measured, at checkpoints of
            which the best is kept; as often as takes three percent of the run, or never, when not given.
        watch_num: samples of each such point.
        watch_spaces: feature spaces to measure them in; the first chooses the best, the others only report.
    """

    steps: MaybeInt = None
    minutes: MaybeFloat = None
    batch: int = 64
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    threads: MaybeInt = None
    ema: tuple[float, ...] = (0.1, 0.05)
    measurements: int = 20
    previews: int = 5
    checkpoints: int = 10
    spaced: int = 4
    snapshots: int = 10
    watch: MaybeInt = None
    watch_num: int = 128
    watch_spaces: tuple[str, ...] = ("self-supervised", "random")

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.minutes is not None and not 0.0 < self.minutes < float("inf"):
            raise ValueError(f"minutes must be a positive number, got {self.minutes}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is a whole number from 0 to 2^63 - 1, got {self.seed}")
        for name in ("measurements", "previews", "checkpoints", "spaced", "snapshots", "watch"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} counts events, 0 or more; got {getattr(self, name)}")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    text: TextSettings = field(default_factory=TextSettings)
    vectors: VectorSettings = field(default_factory=VectorSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    run: RunSettings = field(default_factory=RunSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)


# Settings there were once: what each was when it did nothing, and what to use now.
RETIRED = {"accumulate": (1, "micro_batch in [engine] says how many samples are computed at once")}


def with_length(base: T, layer: Mapping[str, Any]) -> T:
    """`base` without its length where `layer` sets another: a later --minutes replaces earlier --steps, and the
    reverse.
    """
    run = layer.get("run", {})
    given = {name for name in ("steps", "minutes") if isinstance(run, Mapping) and run.get(name) is not None}
    if not given:
        return base
    without = dataclasses.replace(base.run, steps=None, minutes=None)  # type: ignore[attr-defined]
    return dataclasses.replace(base, run=without)  # type: ignore[type-var]


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ValueError: missing, or not TOML.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ValueError(f"there is no configuration file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None


def merge(base: T, values: Mapping[str, Any], where: str = "the configuration") -> T:
    """`base` (a frozen dataclass) with nested values replaced.

    Raises:
        ValueError: an unknown key (with a suggestion) or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(base)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields and key in RETIRED and value == RETIRED[key][0]:
            continue
        if key not in fields and key in RETIRED:
            raise ValueError(f"{where} has {key}, which is gone: {RETIRED[key][1]}")
        if key not in fields:
            raise ValueError(
                f"{where} has an unknown key {key!r}{suggestion(key, list(fields))}; known: {', '.join(fields)}"
            )
        current = getattr(base, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {key} is a section of settings, got {value!r}")
            changes[key] = merge(current, value, f"[{key}] of {where}")
        else:
            changes[key] = _checked(value, hints[key], f"{key} in {where}")
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def _checked(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        kind = typing.get_origin(option) or option
        if kind is types.NoneType:
            if value is None:
                return None
            continue
        if kind is tuple and isinstance(value, (list, tuple)):
            element = typing.get_args(option)[0]
            return tuple(_checked(v, element, where) for v in value)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind is not tuple and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    kinds = [o for o in options if o is not types.NoneType]
    expected = " or ".join(names.get(o) or f"a list, each {names[typing.get_args(o)[0]]}" for o in kinds)
    raise ValueError(f"{where} must be {expected}, got {value!r}")


def to_toml(config: object) -> str:
    """TOML text of a nested frozen dataclass; values that are None are left out."""
    lines: list[str] = []
    for section in dataclasses.fields(config):  # type: ignore[arg-type]
        lines.append(f"[{section.name}]")
        part = getattr(config, section.name)
        for f in dataclasses.fields(part):
            value = getattr(part, f.name)
            if value is not None:
                lines.append(f"{f.name} = {_toml_value(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        plain = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c for c in plain) + '"'
    return "[" + ", ".join(_toml_value(v) for v in value) + "]"
