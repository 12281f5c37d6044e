"""Post-hoc EMA: any averaging profile, rebuilt after training from a few stored averages.

Karras et al. 2024, arXiv 2312.02696, section 3. A run tracks two (or more) power-function averages and stores them now
and then. Each stored average is the weights' history seen through a known window; a window wanted later is written as a
combination of the stored ones by least squares, and the same combination of the stored tensors is its average.

The paper's solution is constrained here so that the coefficients sum to exactly 1: an average of weights that stand
still is then those weights, and the part of the history that the windows cannot express falls on the motion of the
weights alone, not on their size. It costs nothing and lowers the error several times (docs/results/posthoc-ema.md).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan.files import sync_folder, unfinished, whole_file, write_text
from kakusan.model_folder import CorruptModel, read_tensors, sha256
from kakusan.train.ema import Ema, EmaProfile

FOLDER, INDEX = "snapshots", "snapshots.json"
FORMAT = 1
_LARGEST_HALF = 6e4


@dataclass(frozen=True)
class Window:
    """What an average has seen: the power-function window of `profile` over the first `updates` updates."""

    profile: EmaProfile
    updates: int


@dataclass(frozen=True)
class Combination:
    """A wanted window as a sum of known ones.

    Args:
        coefficients: one for each known window, fp64; they sum to 1.
        residual: relative L2 distance between the wanted window and the sum, as functions of training time. The error
            of the rebuilt weights is smaller by as much as they move less than they are large.
    """

    coefficients: tuple[float, ...]
    residual: float


def inner_products(a: Sequence[Window], b: Sequence[Window]) -> Tensor:
    """Inner products of windows as functions of training time, (len(a), len(b)) fp64 (arXiv 2312.02696, appendix C).

    The window of exponent g after n updates is `(g + 1) t^g / n^(g + 1)` for t in [0, n], so the product of two is
    `(g + 1) (h + 1) / (g + h + 1) * min(n, m)^(g + h + 1) / (n^(g + 1) m^(h + 1))`; written with logarithms, because
    the powers overflow.
    """
    g, n = _columns(a)
    h, m = (column[None] for column in _columns(b))
    g, n = g[:, None], n[:, None]
    logarithm = (g + h + 1.0) * torch.minimum(n, m).log() - (g + 1.0) * n.log() - (h + 1.0) * m.log()
    return (g + 1.0) * (h + 1.0) / (g + h + 1.0) * logarithm.exp()


def _columns(windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """(exponents, updates), fp64."""
    exponents = [window.profile.exponent for window in windows]
    return torch.tensor(exponents, dtype=torch.float64), torch.tensor([float(w.updates) for w in windows]).double()


def combine(known: Sequence[Window], wanted: Window) -> Combination:
    """The sum of `known` windows nearest to the wanted one, among those whose coefficients sum to 1.

    Raises:
        ValueError: no known window, or one that has seen updates which the wanted one has not.
    """
    if not known:
        raise ValueError("there is no stored average to rebuild another one from")
    if min(w.updates for w in (*known, wanted)) < 1:
        raise ValueError("an average that has seen no update holds nothing; leave out the start of the run")
    if max(w.updates for w in known) > wanted.updates:
        raise ValueError(f"a stored average has seen updates after the {wanted.updates}th, which is the one wanted")
    products, right = inner_products(known, known), inner_products(known, [wanted])[:, 0]
    square = float(inner_products([wanted], [wanted]))
    # Windows of unit length: the system is as well conditioned as it can be.
    scale = products.diagonal().rsqrt()
    count = len(known)
    system = torch.zeros(count + 1, count + 1, dtype=torch.float64)
    system[:count, :count] = products * scale[:, None] * scale
    system[:count, count] = system[count, :count] = scale / scale.max()
    answer = torch.cat([right * scale, (1.0 / scale.max()).reshape(1)])
    # Least norm where two windows are the same.
    found = torch.linalg.lstsq(system, answer[:, None], driver="gelsd").solution[:count, 0] * scale
    found = found / found.sum()
    missed = float(found @ products @ found - 2.0 * found @ right) + square
    return Combination(tuple(found.tolist()), math.sqrt(max(missed, 0.0) / square))


@dataclass(frozen=True)
class Stored:
    """One snapshot: the averages of all profiles after `updates` updates, at training step `step`."""

    file: str
    step: int
    updates: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What `snapshots.json` says.

    Args:
        config: settings of the run, as in its checkpoints.
        profiles: width of every profile, by name.
        snapshots: by rising updates.
    """

    config: Mapping[str, Any]
    profiles: Mapping[str, float]
    snapshots: tuple[Stored, ...] = ()


class Snapshots:
    """The averages of a run, stored now and then in `snapshots/` of its folder.

    Tensors are stored in half precision (single where values would overflow): their rounding, 2^-12 of a value on
    average, is far below what rebuilding itself misses. Every file is whole or absent, and the index names each with
    its hash; a snapshot counts from the moment the index names it.
    """

    def __init__(self, run: str | Path) -> None:
        self.folder = Path(run) / FOLDER

    @property
    def index_file(self) -> Path:
        return self.folder / INDEX

    def take(self, ema: Ema, step: int, config: Mapping[str, Any]) -> Path | None:
        """Store the averages as they are now; None when these updates are stored already, or there are none.

        Raises:
            ValueError: they could not be written (the disk is full); what was stored before stays whole.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        index = self.read() if self.index_file.is_file() else Index(config, {})
        kept = index.snapshots
        if ema.updates < 1 or any(s.updates == ema.updates for s in kept):
            return None
        tensors = {
            f"{profile}/{name}": _small(value) for profile, part in ema.averages.items() for name, value in part.items()
        }
        path = self.folder / f"update-{ema.updates:08d}.safetensors"
        try:
            with whole_file(path) as temporary:
                save_file(tensors, str(temporary))
            stored = Stored(path.name, step, ema.updates, path.stat().st_size, sha256(path))
            profiles = {name: profile.width for name, profile in ema.profiles.items()}
            every = tuple(sorted((*kept, stored), key=lambda s: s.updates))
            self._write(Index(config, profiles, every))
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"the averages of step {step} could not be stored in {self.folder}: {error}. Free some space and start "
                "the same command again, or store none with --snapshots 0"
            ) from error
        return path

    def drop_after(self, updates: int) -> None:
        """Forget snapshots of updates that have not happened: of a run that was sent or rolled back, or killed."""
        if not self.folder.is_dir():
            return
        for file in unfinished(self.folder):
            file.unlink(missing_ok=True)
        index = self.read() if self.index_file.is_file() else Index({}, {})
        kept = tuple(s for s in index.snapshots if s.updates <= updates)
        if kept != index.snapshots:
            # The index first: a file it does not name is no snapshot.
            self._write(dataclasses.replace(index, snapshots=kept))
        named = {s.file for s in kept}
        for file in self.folder.glob("update-*.safetensors"):
            if file.name not in named:
                file.unlink(missing_ok=True)

    def _write(self, index: Index) -> None:
        content = {"format": FORMAT, **dataclasses.asdict(index)}
        write_text(self.index_file, json.dumps(content, indent=1) + "\n")
        sync_folder(self.folder)

    def read(self) -> Index:
        """The index.

        Raises:
            CorruptModel: there is none, or it is damaged.
        """
        if not self.index_file.is_file():
            raise CorruptModel(
                f"there are no stored averages in {self.folder}: the run was trained with --snapshots 0, or by an "
                "earlier version; train with --snapshots 10 to rebuild averages afterwards"
            )
        try:
            content = json.loads(self.index_file.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise CorruptModel(
                    f"{self.index_file} has format {content['format']!r}; this version of kakusan reads {FORMAT}"
                )
            snapshots = tuple(Stored(**entry) for entry in content["snapshots"])
            profiles = {str(name): float(width) for name, width in content["profiles"].items()}
            return Index(content["config"], profiles, snapshots)
        except CorruptModel:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptModel(
                f"{self.index_file} is damaged ({error!r}); delete {self.folder} to train on without it"
            ) from None

    def tensors(self, stored: Stored) -> dict[str, Tensor]:
        """The tensors of one snapshot, `profile/name`, after its size and hash were checked.

        Raises:
            CorruptModel: missing or changed.
        """
        with _blaming(self.index_file):
            files = {stored.file: {"bytes": stored.bytes, "sha256": stored.sha256}}
            return read_tensors(self.folder, stored.file, {"files": files})

    def bytes(self) -> int:
        """Size of all snapshots on disk."""
        return sum(s.bytes for s in self.read().snapshots) if self.index_file.is_file() else 0


@contextlib.contextmanager
def _blaming(index: Path) -> Iterator[None]:
    """Damage is said with the way out of it."""
    try:
        yield
    except CorruptModel as error:
        reason = str(error).split(";")[0]
        raise CorruptModel(
            f"{reason}; take its entry out of {index} to rebuild from the others, a little less exactly"
        ) from None


def storage(parameters: int, profiles: int, times: int) -> str:
    """What storing the averages so many times will take on disk, for people."""
    size = 2 * parameters * profiles * times / 1e6
    return f"the weight averages are stored {times} times for `kakusan ema`: {size:.3g} MB in all (--snapshots)"


def _small(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    half = value.is_floating_point() and value.numel() > 0 and float(value.abs().max()) < _LARGEST_HALF
    return (value.half() if half else value).contiguous()


@dataclass(frozen=True)
class Rebuilt:
    """An average that was not tracked.

    Args:
        tensors: by parameter, in fp32.
        combination: how the stored ones were added up.
        places: at how many different times they were stored.
    """

    tensors: dict[str, Tensor]
    combination: Combination
    places: int


def rebuild(
    snapshots: Snapshots,
    widths: Sequence[float],
    *,
    updates: int,
    averages: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> list[Rebuilt]:
    """The averages of these widths after `updates` updates, from the snapshots up to there.

    Every snapshot is read once, whatever the number of widths. Sums are taken in fp64.

    Args:
        averages: the averages at `updates` itself in full precision, as a checkpoint has them, by profile.

    Raises:
        ValueError: a width outside (0, 0.28), or no snapshot; `CorruptModel` for one that is damaged.
    """
    wanted = [Window(EmaProfile(width), updates) for width in widths]
    index = snapshots.read()
    used = [s for s in index.snapshots if s.updates < updates or (averages is None and s.updates == updates)]
    if not used and averages is None:
        raise ValueError(
            f"there is no stored average of the first {updates} updates in {snapshots.folder}; train with --snapshots "
            "10, or take a later checkpoint"
        )
    profiles = {name: EmaProfile(width) for name, width in index.profiles.items()}
    known = [Window(profile, s.updates) for s in used for profile in profiles.values()]
    if averages is not None:
        known += [Window(profiles[name], updates) for name in averages]
    combinations = [combine(known, window) for window in wanted]
    sums: list[dict[str, Tensor]] = [{} for _ in widths]
    place = 0
    for part in _parts(snapshots, used, profiles, averages):
        for tensors in part:
            for total, combination in zip(sums, combinations, strict=True):
                _add(total, tensors, combination.coefficients[place])
            place += 1
    places = len(used) + (averages is not None)
    return [
        Rebuilt({name: value.float() for name, value in total.items()}, combination, places)
        for total, combination in zip(sums, combinations, strict=True)
    ]


def _parts(
    snapshots: Snapshots,
    used: Sequence[Stored],
    profiles: Mapping[str, EmaProfile],
    averages: Mapping[str, Mapping[str, Tensor]] | None,
) -> Iterator[list[Mapping[str, Tensor]]]:
    """The averages of one place after the other, each by parameter, in the order of the profiles."""
    for stored in used:
        tensors = snapshots.tensors(stored)
        part: list[Mapping[str, Tensor]] = []
        for profile in profiles:
            prefix = profile + "/"
            found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if not found:
                raise CorruptModel(f"{snapshots.folder / stored.file} is of another run: it has no average {profile!r}")
            part.append(found)
        yield part
    if averages is not None:
        yield list(averages.values())


def _add(total: dict[str, Tensor], tensors: Mapping[str, Tensor], factor: float) -> None:
    if total and (total.keys() != tensors.keys() or any(total[n].shape != v.shape for n, v in tensors.items())):
        different = sorted(total.keys() ^ tensors.keys()) or sorted(
            n for n, v in tensors.items() if total[n].shape != v.shape
        )
        raise CorruptModel(f"the stored averages are of different models; they differ in {', '.join(different[:3])}")
    for name, value in tensors.items():
        scaled = value.double() * factor
        total[name] = total[name] + scaled if name in total else scaled
