"""A reader of attributes: what the plain flowers in pictures look like, beside what a prompt asked for.

It is trained on freshly drawn flowers whose factors are known exactly, all combinations of them, so it knows nothing of
what a generator has seen. Each attribute has a head of its own with one value more than there are: "cannot tell", for
noise, for two flowers in one and for numbers of petals that no flower has.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.data.flowers import Factors, draw_batch
from kakusan.data.flowers_combinations import ATTRIBUTES, VERSION, sample_plain, values_of

SIZE = 32
"""Pictures are brought to so many pixels a side before they are read."""
SEED = 0x7265616465720000
"""Keeps the flowers that the reader learns from apart from every set."""
CLEAN_SEED = SEED + 1
"""The seed of the flowers that it is measured on."""
SURE = 0.5
"""A value read with less probability is "cannot tell"."""
WRONG_COUNTS = (2, 7, 9, 10)
"""Numbers of petals that no flower has: a generator that cannot count draws them."""

Value = int | str


@dataclass(frozen=True)
class Rate:
    """A share of pictures that are right.

    Args:
        right: how many are.
        n: of how many.
    """

    right: int
    n: int

    @property
    def value(self) -> float:
        """The share; NaN of none."""
        return self.right / self.n if self.n else math.nan

    @property
    def stderr(self) -> float:
        """Standard error of the share, with one success and one failure added, so that none or all are not certain."""
        if not self.n:
            return math.nan
        share = (self.right + 1) / (self.n + 2)
        return math.sqrt(share * (1.0 - share) / (self.n + 2))

    def text(self) -> str:
        """`97.1 % ± 0.4 %`."""
        return f"{100 * self.value:.1f} % ± {100 * self.stderr:.1f} %" if self.n else "–"


@dataclass(frozen=True)
class Scores:
    """How often pictures show what was wanted.

    Args:
        attributes: of each attribute, among the pictures for which it was wanted.
        all_right: pictures with every wanted attribute right.
        cannot_tell: of each attribute, how often it could not be read; such a picture counts as wrong.
    """

    attributes: Mapping[str, Rate]
    all_right: Rate
    cannot_tell: Mapping[str, int]


@dataclass(frozen=True)
class Reading:
    """What was read from B pictures.

    Args:
        values: attribute -> B values, None where it cannot be told.
        confidence: attribute -> (B,) probability of the likeliest value, "cannot tell" being one.
    """

    values: Mapping[str, tuple[Value | None, ...]]
    confidence: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def picture(self, index: int) -> dict[str, Value | None]:
        """All attributes of one picture."""
        return {name: values[index] for name, values in self.values.items()}

    def scores(self, wanted: Sequence[Mapping[str, Value]]) -> Scores:
        """Set beside what was wanted of each picture; attributes that were not named are not counted.

        Raises:
            ValueError: another number of pictures, or an attribute that is not read.
        """
        if len(wanted) != len(self):
            raise ValueError(f"{len(self)} pictures were read, but {len(wanted)} were wanted")
        unknown = sorted({name for values in wanted for name in values} - set(self.values))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} cannot be read; {', '.join(self.values)} can")
        rates, blind = {}, {}
        for name, found in self.values.items():
            pairs = [(got, values[name]) for got, values in zip(found, wanted, strict=True) if name in values]
            rates[name] = Rate(sum(got == value for got, value in pairs), len(pairs))
            blind[name] = sum(got is None for got, _ in pairs)
        right = sum(
            all(self.values[name][i] == value for name, value in values.items()) for i, values in enumerate(wanted)
        )
        return Scores(rates, Rate(right, len(wanted)), blind)

    def kept(self, other: Reading) -> dict[str, Rate]:
        """How often each attribute is the same in two readings of as many pictures; unread ones are not counted.

        Raises:
            ValueError: another number of pictures.
        """
        if len(other) != len(self):
            raise ValueError(f"{len(self)} pictures beside {len(other)}: they are compared one by one")
        found = {}
        for name, values in self.values.items():
            pairs = [(a, b) for a, b in zip(values, other.values[name], strict=True) if a is not None and b is not None]
            found[name] = Rate(sum(a == b for a, b in pairs), len(pairs))
        return found


class AttributeReader(nn.Module):
    """Four convolutions, one layer that sees all places, one head for each attribute. Pictures are (B, 3, H, W) in
    [-1, 1], H = W; larger ones are averaged, smaller ones enlarged to 32 pixels.

    Args:
        accuracy: of each attribute on clean flowers it never saw, measured after training.
    """

    def __init__(self, accuracy: Mapping[str, Rate] | None = None) -> None:
        super().__init__()
        self.accuracy: Mapping[str, Rate] = accuracy or {}
        layers: list[nn.Module] = []
        before = 3
        for width, stride, size in ((32, 2, 5), (64, 2, 3), (96, 1, 3), (96, 2, 3)):
            layers += [
                nn.Conv2d(before, width, size, stride=stride, padding=size // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 16, 192), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(192, len(values) + 1) for name, values in ATTRIBUTES.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Attribute -> scores (B, values + 1), the last one for "cannot tell"."""
        hidden = self.body(_sized(x))
        return {name: head(hidden) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, x: Tensor, *, batch: int = 256) -> Reading:
        """The attributes of pictures.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            batch: pictures at once.

        Raises:
            ValueError: no pictures, or of another shape.
        """
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3] or not len(x):
            raise ValueError(f"the reader sees square colour pictures (B, 3, H, H), at least one, got {tuple(x.shape)}")
        place = next(self.parameters())
        parts = [self(part.to(place.device, place.dtype)) for part in x.split(batch)]
        values, confidence = {}, {}
        for name, known in ATTRIBUTES.items():
            likely, index = torch.cat([part[name] for part in parts]).softmax(dim=1).cpu().max(dim=1)
            told: list[Value | None] = [*known, None]
            values[name] = tuple(
                told[i] if p >= SURE else None for i, p in zip(index.tolist(), likely.tolist(), strict=True)
            )
            confidence[name] = likely
        return Reading(values, confidence)

    def scores(self, x: Tensor, wanted: Sequence[Mapping[str, Value]]) -> Scores:
        """How often pictures (B, 3, H, H) in [-1, 1] show what was wanted of each."""
        return self.read(x).scores(wanted)

    @property
    def hash(self) -> str:
        """Changes when the weights do: figures of two readers are not compared."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            found.update(name.encode() + tensor.cpu().numpy().tobytes())
        return found.hexdigest()[:16]


def _sized(x: Tensor) -> Tensor:
    if x.shape[-1] == SIZE:
        return x
    if x.shape[-1] % SIZE == 0:
        return F.avg_pool2d(x, x.shape[-1] // SIZE)
    return F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)


def drawn(factors: Sequence[Factors], size: int = SIZE) -> Tensor:
    """Painted flowers as pictures (B, 3, size, size) in [-1, 1]."""
    stored = np.ascontiguousarray(np.moveaxis(draw_batch(factors, size), -1, 1))
    return torch.from_numpy(stored).float() / 127.5 - 1.0


def train_reader(
    *, pictures: int = 8000, steps: int = 1400, batch: int = 64, seed: int = 0, clean: int = 2000, size: int = SIZE
) -> AttributeReader:
    """A reader trained on freshly drawn flowers: deterministic from `seed` on one machine, and in eval mode.

    Training sees them shifted by up to two pixels, blurred, noisy, and a little brighter or paler, as pictures that a
    model made may be.

    Args:
        pictures: to draw.
        steps: of the optimizer.
        batch: pictures in a step; an eighth more are spoilt ones, of which nothing can be told.
        seed: of flowers, weights, order and disturbances.
        clean: other flowers, on which it is measured afterwards.
        size: of the drawings, as the pictures to be read have it.

    Raises:
        ValueError: too few pictures or steps.
    """
    if pictures < 2 * batch or steps < 1 or batch < 8:
        raise ValueError(
            f"a reader needs at least 1 step, batches of 8 and two of them, got {pictures}, {steps}, {batch}"
        )
    factors = [sample_plain(SEED + (seed << 8), index) for index in range(pictures)]
    for index in range(0, pictures, 20):
        count = WRONG_COUNTS[index // 20 % len(WRONG_COUNTS)]
        factors[index] = replace(factors[index], petal_count=count)
    x = _sized(drawn(factors, size))
    targets = {
        name: torch.tensor([values.index(v) if (v := getattr(f, name)) in values else len(values) for f in factors])
        for name, values in ATTRIBUTES.items()
    }
    generator = torch.Generator().manual_seed(seed)
    # Layers draw their first weights from the global generator: borrow it and give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AttributeReader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=2e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.15)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(pictures, generator=generator)])
        chosen, order = order[:batch], order[batch:]
        spoilt, unsure = _spoilt(x, targets, batch // 8, generator)
        found = model(torch.cat([_disturbed(x[chosen], generator), spoilt]))
        loss = torch.stack(
            [F.cross_entropy(s, torch.cat([targets[name][chosen], unsure[name]])) for name, s in found.items()]
        ).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rate.step()
    model.eval().requires_grad_(False)
    known = [sample_plain(CLEAN_SEED + (seed << 8), index) for index in range(clean)]
    model.accuracy = model.scores(drawn(known, size), [values_of(f) for f in known]).attributes if clean else {}
    return model


def _disturbed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture with its own brightness, noise and sharpness; the batch shifted as a whole."""
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((n, 1, 1, 1), generator=generator)

    x = x * uniform(0.85, 1.1) + uniform(-0.06, 0.06)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    # Most are sharp: half of the pictures have no blur at all.
    x = torch.lerp(x, soft, uniform(-1.0, 0.9).clamp_min(0.0))
    down, right = torch.randint(0, 5, (2,), generator=generator).tolist()
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    x = padded[..., down : down + x.shape[-2], right : right + x.shape[-1]]
    return x + uniform(0.0, 0.12) * torch.randn(x.shape, generator=generator)


def _spoilt(
    x: Tensor, targets: Mapping[str, Tensor], count: int, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures of which nothing can be told, or not all: pure noise, one colour, and two flowers in one."""
    one, two = torch.randint(0, len(x), (2, 3 * count), generator=generator)[:, :count]
    kind = torch.rand((count, 1, 1, 1), generator=generator)
    level = 2.0 * torch.rand((count, 3, 1, 1), generator=generator) - 1.0
    grain = torch.rand((count, 1, 1, 1), generator=generator)
    noise = (level + grain * torch.randn((count, *x.shape[1:]), generator=generator)).clamp(-1.0, 1.0)
    share = 0.4 + 0.2 * torch.rand((count, 1, 1, 1), generator=generator)
    pictures = torch.where(kind < 0.5, noise, share * x[one] + (1.0 - share) * x[two])
    blended = kind.flatten() >= 0.5
    unsure = {}
    for name, values in ATTRIBUTES.items():
        # What both flowers share can still be read.
        same = blended & (targets[name][one] == targets[name][two])
        unsure[name] = torch.where(same, targets[name][one], len(values))
    return pictures, unsure


def load_reader(folder: Path, *, seed: int = 0, size: int = SIZE) -> AttributeReader:
    """The reader of `train_reader(seed=seed, size=size)`, kept in `folder` as safetensors once it was trained.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    path = folder / f"attributes-{VERSION}-{size}-{seed}.safetensors"
    if path.is_file():
        model = AttributeReader()
        try:
            with safe_open(path, framework="pt") as file:
                model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                kept = json.loads((file.metadata() or {})["accuracy"])
            model.accuracy = {name: Rate(*map(int, kept[name])) for name in ATTRIBUTES}
            return model.eval().requires_grad_(False)
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError):
            # Of another version, or damaged: it is trained again.
            pass
    model = train_reader(seed=seed, size=size)
    folder.mkdir(parents=True, exist_ok=True)
    accuracy = json.dumps({name: (rate.right, rate.n) for name, rate in model.accuracy.items()})
    temporary = path.with_suffix(".part")
    save_file(model.state_dict(), temporary, metadata={"accuracy": accuracy})
    temporary.replace(path)
    return model
