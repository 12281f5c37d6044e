"""`compress` and `decompress`: pictures to bytes and back, bit for bit, by the probabilities of a diffusion model."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kakusan.codec import container, planning
from kakusan.codec.chain import Bound, Chain
from kakusan.codec.circumstances import again, circumstances, identity, repeatable
from kakusan.codec.container import CorruptFile
from kakusan.codec.stack import Integers, Stack, Undecodable, Underflow
from kakusan.conditioning import Condition
from kakusan.data.spec import DataSpec

if TYPE_CHECKING:
    from kakusan.pipeline import Pipeline

_PLAIN = "p"
_LARGEST = 9
"""Groups hold up to 2^9 pictures: one digit each in the header."""
_MEASURED = (32, 1 << 12)
"""Pictures that the grid is chosen on: at least so many, and of small ones so many values."""
_MOST_STEPS = 4096
_MOST_VALUES = 1 << 28


@dataclass(frozen=True)
class Decoded:
    """What a file holds.

    Args:
        pictures: (N, C, *size) uint8.
        labels: (N,) int64, or None.
    """

    pictures: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Summary:
    """Where the bits of a file are.

    Args:
        count: pictures.
        values: of one picture, C * H * W.
        file_bits: everything.
        coded_bits: of the coder's stack alone: no header, no checksum.
        plain: pictures coded without the model, whose bits start the stack.
        plain_bits: theirs.
        label_bits: of all labels.
        steps: of the chain.
        batch: largest group of pictures coded at once.
    """

    count: int
    values: int
    file_bits: int
    coded_bits: int
    plain: int
    plain_bits: float
    label_bits: float
    steps: int
    batch: int

    @property
    def rate(self) -> float:
        """Bits per value of the whole file."""
        return self.file_bits / max(self.count * self.values, 1)

    @property
    def rate_without_start(self) -> float:
        """Bits per value of the pictures coded by the model, labels, header and start left out."""
        bits = self.coded_bits - self.plain_bits - self.label_bits
        return bits / max((self.count - self.plain) * self.values, 1)


def compress(
    pipeline: Pipeline, pictures: Tensor, labels: Tensor | None = None, *, steps: int = 100, batch: int = 32,
    bins: int = 4,
) -> bytes:  # fmt: skip
    """Code pictures in a file whose size approaches the model's T-step bound.

    Groups of pictures are coded at once, small ones first: a group takes the random bits it needs from what is on the
    stack already, so nothing is spent on them. Only the first one or two pictures, before which there is nothing, are
    coded plainly.

    Args:
        pipeline: the model. Only the same model, on the same kind of machine, decodes the file.
        pictures: (N, C, *size) uint8, as the model's data spec says.
        labels: (N,) class indices, for a conditional model; they are kept in the file. None codes without condition.
        steps: of the chain, T. More cost more time and come nearer to the continuous bound.
        batch: most pictures coded at once.
        bins: lattice points to a standard deviation. More come nearer to the bound and need a larger start.

    Raises:
        ValueError: pictures or labels that are not the model's, or a model that cannot code them.
        ImportError: `constriction` is not installed.
    """
    values = _checked(pipeline, pictures, labels, steps=steps, batch=batch, bins=bins)
    with repeatable(), torch.no_grad():
        grid, spread = _plan(pipeline, values, labels, steps)
        header: dict[str, Any] = {
            "model": identity(pipeline),
            "count": len(values),
            "steps": steps,
            "bins": bins,
            "grid": _text(np.packbits(grid).tobytes()),
            "spread": _text(spread),
            "labels": labels is not None,
            "digest": _digest(values, labels),
            **circumstances(pipeline),
        }
        stack = Stack()
        header["groups"] = "".join(_encode(pipeline, _chain(pipeline, header), stack, values, labels, batch))
    return container.pack(header, stack.words())


def decompress(pipeline: Pipeline, data: bytes) -> Tensor:
    """The pictures of a file, (N, C, *size) uint8, exactly those that were compressed; `decode` gives labels too.

    Raises:
        CorruptFile: damaged, cut short or foreign.
        ValueError: written with another model, or this machine computes other bits.
        ImportError: `constriction` is not installed.
    """
    return decode(pipeline, data).pictures


def decode(pipeline: Pipeline, data: bytes) -> Decoded:
    """Pictures and labels of a file; errors as `decompress`."""
    header, words = container.unpack(data)
    _check_header(header)
    if header["model"] != identity(pipeline):
        raise ValueError(
            f"this file was written with another model or other weights (hash {header['model']}) than this one "
            f"(hash {identity(pipeline)}); decode it with the model it was made by"
        )
    if (header["labels"] and not pipeline.classes) or header["count"] * math.prod(pipeline.data.shape) > _MOST_VALUES:
        raise CorruptFile("the header of this file does not fit its model; it is damaged")
    with repeatable(), torch.no_grad(), again(pipeline, header) as other:
        try:
            stack = Stack(words, guarded=False)
            values, labels = _decode(pipeline, _chain(pipeline, header), stack, header)
            right = stack.empty and _digest(values, labels) == header["digest"]
        except (Undecodable, ValueError, OverflowError) as error:
            if isinstance(error, CorruptFile):
                raise
            right = False
    if not right:
        reason = ", ".join(other) or "something this file does not record, such as the processor"
        raise ValueError(
            "the decoded pictures are not those that were compressed: the network computes other bits here than where "
            f"the file was written. What differs: {reason}. Decode it as it was written"
        )
    stored = torch.from_numpy(values + int(pipeline.data.low)).to(torch.uint8)
    return Decoded(stored, None if labels is None else labels.cpu())


def summary(pipeline: Pipeline, data: bytes) -> Summary:
    """Where the bits of a file are.

    Raises:
        CorruptFile: as `decompress`.
    """
    header, words = container.unpack(data)
    _check_header(header)
    groups, size = header["groups"], math.prod(pipeline.data.shape)
    return Summary(
        count=header["count"],
        values=size,
        file_bits=8 * len(data),
        coded_bits=32 * len(words),
        plain=groups.count(_PLAIN),
        plain_bits=groups.count(_PLAIN) * size * math.log2(_levels(pipeline.data)),
        label_bits=header["count"] * math.log2(len(pipeline.classes)) if header["labels"] else 0.0,
        steps=header["steps"],
        batch=max((2 ** int(g) for g in groups if g != _PLAIN), default=0),
    )


def bound(
    pipeline: Pipeline, data: bytes, pictures: Tensor, labels: Tensor | None = None, *, seed: int = 0, batch: int = 64
) -> Bound:
    """The bound (nats, one number a picture) that the rate of a file approaches: same grid, steps and variances.

    Args:
        data: the file, for its grid.
        pictures: (N, C, *size) uint8, those of the file or any others.
        labels: (N,), when the file has them.
        seed: of the draws; picture k has seed + k.
    """
    header, _ = container.unpack(data)
    _check_header(header)
    values = _checked(pipeline, pictures, labels, steps=header["steps"], batch=batch, bins=header["bins"])
    with torch.no_grad():
        chain = _chain(pipeline, header)
        parts = []
        for k in range(0, len(values), batch):
            part = values[k : k + batch]
            seeds = [seed + k + j for j in range(len(part))]
            parts.append(chain.bound(part, _condition(pipeline, labels, k, len(part)), seeds=seeds))
    return Bound(*(torch.cat([getattr(p, n) for p in parts]) for n in ("prior", "reconstruction", "diffusion")))


def _checked(pipeline: Pipeline, pictures: Tensor, labels: Tensor | None, *, steps: int, batch: int, bins: int
) -> Integers:  # fmt: skip
    """Values counted from 0."""
    spec = pipeline.data
    for name, value, most in (("steps", steps, _MOST_STEPS), ("batch", batch, 2**_LARGEST), ("bins", bins, 64)):
        if not 1 <= value <= most:
            raise ValueError(f"{name} lies between 1 and {most}, got {value}")
    if spec.bits != 8 or spec.low != int(spec.low) or spec.high != int(spec.high):
        raise ValueError(
            f"the codec is for pictures of whole 8-bit values; this model's have {spec.bits} bits and run from "
            f"{spec.low:g} to {spec.high:g}"
        )
    if not pipeline.denoiser.independent_noise:
        raise ValueError("this model was trained on coupled pairs of noise and data, so it has no bound to code with")
    spec.check(pictures)
    if len(pictures) == 0:
        raise ValueError("there are no pictures to compress")
    if pictures.numel() > _MOST_VALUES:
        raise ValueError(f"{pictures.numel()} values are more than one file holds ({_MOST_VALUES}); split the pictures")
    conditioner = pipeline.model.conditioner
    if labels is None and conditioner is not None and conditioner.dropout == 0.0:
        raise ValueError("this model was trained without condition dropout: it codes pictures only with their labels")
    if labels is not None:
        if not pipeline.classes:
            raise ValueError("this model was trained without classes; compress without labels")
        if labels.shape != (len(pictures),) or labels.is_floating_point():
            raise ValueError(f"labels is one class index for each of {len(pictures)} pictures")
        if int(labels.min()) < 0 or int(labels.max()) >= len(pipeline.classes):
            raise ValueError(f"labels run from {int(labels.min())} to {int(labels.max())}; the model has "
                             f"{len(pipeline.classes)} classes")  # fmt: skip
    return pictures.cpu().numpy().astype(np.int64) - int(spec.low)


def _levels(spec: DataSpec) -> int:
    return int(spec.high) - int(spec.low) + 1


def _condition(pipeline: Pipeline, labels: Tensor | None, start: int, size: int) -> Condition | None:
    if labels is not None:
        return pipeline.model.condition(labels[start : start + size].to(pipeline.device, torch.int64))
    conditioner = pipeline.model.conditioner
    return None if conditioner is None else conditioner.null(size)


def _plan(pipeline: Pipeline, values: Integers, labels: Tensor | None, steps: int) -> tuple[planning.Flags, bytes]:
    """The grid of least cost on some of the pictures, evenly taken, and how far the model errs along it."""
    wanted = min(len(values), max(_MEASURED[0], _MEASURED[1] // math.prod(pipeline.data.shape)))
    places = np.unique(np.linspace(0, len(values) - 1, wanted).astype(np.int64))
    levels = planning.candidates(pipeline.denoiser.schedule, _levels(pipeline.data), steps)
    some = None if labels is None else labels[torch.from_numpy(places)]
    curve = planning.measure(
        pipeline.denoiser,
        levels,
        values[places],
        _condition(pipeline, some, 0, len(places)),
        count=_levels(pipeline.data),
        device=pipeline.device,
    )
    dimensions = math.prod(pipeline.data.shape)
    return planning.choose(curve, levels, steps=steps, dimensions=dimensions), planning.spread_of(curve, levels)


def _chain(pipeline: Pipeline, header: Mapping[str, Any]) -> Chain:
    levels = planning.candidates(pipeline.denoiser.schedule, _levels(pipeline.data), header["steps"])
    chosen = np.unpackbits(np.frombuffer(_bytes(header["grid"]), np.uint8))[: len(levels)].astype(bool)
    spread = _bytes(header["spread"])
    if len(chosen) != len(levels) or chosen.sum() != header["steps"] + 1 or len(spread) != planning.KNOTS:
        raise CorruptFile("the grid in this file is damaged")
    return Chain(
        pipeline.denoiser,
        [levels[int(place)] for place in np.flatnonzero(chosen)],
        count=_levels(pipeline.data),
        shape=pipeline.data.shape,
        bins=header["bins"],
        excess=planning.excess(spread, levels, chosen),
        device=pipeline.device,
    )


def _encode(
    pipeline: Pipeline, chain: Chain, stack: Stack, values: Integers, labels: Tensor | None, batch: int
) -> Iterator[str]:
    """Push everything; yields each group's letter."""
    done, each, most = 0, 0.0, min(int(math.log2(batch)), _LARGEST)
    while done < len(values):
        # As many as the stack can lend to, if the next pictures need what the last ones needed.
        fitting = int(stack.bits / (1.05 * each)) if each else 1
        power = min(most, int(math.log2(min(max(fitting, 1), len(values) - done))))
        size = 0
        while power >= 0 and not size:
            attempt, part = stack.copy(), values[done : done + 2**power]
            try:
                chain.encode(attempt, part, _condition(pipeline, labels, done, len(part)))
                size, each = len(part), (stack.bits - attempt.lowest) / len(part)
                stack.become(attempt)
            except Underflow:
                power -= 1
        yield str(power) if size else _PLAIN
        if not size:
            size = 1
            stack.push_uniform(values[done].reshape(-1), chain.count)
        if labels is not None:
            stack.push_uniform(labels[done : done + size].cpu().numpy(), len(pipeline.classes))
        done += size


def _decode(
    pipeline: Pipeline, chain: Chain, stack: Stack, header: Mapping[str, Any]
) -> tuple[Integers, Tensor | None]:
    found, kinds = [], []
    for letter in reversed(header["groups"]):
        size = 1 if letter == _PLAIN else 2 ** int(letter)
        labels = None
        if header["labels"]:
            labels = torch.from_numpy(stack.pop_uniform(size, len(pipeline.classes)))
            kinds.append(labels)
        if letter == _PLAIN:
            found.append(stack.pop_uniform(chain.dimensions, chain.count).reshape(1, *chain.shape))
        else:
            found.append(chain.decode(stack, size, _condition(pipeline, labels, 0, size)))
    return np.concatenate(found[::-1]), torch.cat(kinds[::-1]) if kinds else None


def _check_header(header: Mapping[str, Any]) -> None:
    """Raise `CorruptFile` for a header that no version of `compress` writes."""
    kinds = {"model": str, "count": int, "steps": int, "bins": int, "grid": str, "spread": str, "labels": bool}
    kinds |= {"digest": str, "groups": str, "constriction": str, "torch": str, "threads": int, "device": str}
    kinds |= {"cpu": str, "matmul": str}
    bad = [name for name, kind in kinds.items() if type(header.get(name)) is not kind]
    if not bad:
        groups, steps = header["groups"], header["steps"]
        whole = set(groups) <= set(_PLAIN + "0123456789")
        count = sum(1 if g == _PLAIN else 2 ** int(g) for g in groups) if whole else -1
        checks = {
            "groups": count == header["count"] > 0,
            "steps": 1 <= steps <= _MOST_STEPS,
            "bins": 1 <= header["bins"] <= 64,
            "threads": 1 <= header["threads"] <= 1024,
            "matmul": header["matmul"] in ("highest", "high", "medium"),
        }
        bad = [name for name, fine in checks.items() if not fine]
    if bad:
        raise CorruptFile(f"the header of this file is damaged: {', '.join(bad)}")


def _digest(values: Integers, labels: Tensor | None) -> str:
    found = hashlib.sha256(values.astype(np.uint8).tobytes())
    if labels is not None:
        found.update(labels.cpu().to(torch.int64).numpy().astype("<i8").tobytes())
    return found.hexdigest()[:16]


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise CorruptFile("the header of this file is damaged: it holds a value that is not base64") from None
