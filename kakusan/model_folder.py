"""The model folder: `model.json` with every fact, `weights.safetensors`, `ema.safetensors`. Never a pickle.

`model.json` is written last and holds the size and hash of the other files, so a folder that has one is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# For what they register: a file names types, and whoever reads it must know them all.
import kakusan.bound_objectives
import kakusan.learned_schedule
import kakusan.nn
import kakusan.pairs
import kakusan.schedule_tables
import kakusan.schedule_wrappers
import kakusan.time_samplers  # noqa: F401
from kakusan.conditioning import Condition, Conditioner
from kakusan.data.spec import DataSpec
from kakusan.denoiser import Denoiser, NoiseMap
from kakusan.noise import Draws
from kakusan.objectives import Objective
from kakusan.parameterizations import Parameterization
from kakusan.schedules import NoiseSchedule
from kakusan.specs import from_spec, to_spec

FORMAT = 1
WEIGHTS, EMA, FACTS = "weights.safetensors", "ema.safetensors", "model.json"
RAW = "raw"
LOADERS = {
    "denoiser": "kakusan.load",
    "rival": "kakusan.rivals.load",
    "noisy_classifier": "kakusan.train.classifier_folder.load",
    "autoencoder": "kakusan.autoencoders.load",
    "clip": "kakusan.encoders.load",
}
"""The entry of `model.json` that each kind of model has, and what loads it."""
_MAX_FACTS = 32 * 2**20


class Model(nn.Module):
    """What is trained together and saved together: a denoiser and, for conditional models, its conditioner."""

    def __init__(self, denoiser: Denoiser, conditioner: Conditioner | None = None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.conditioner = conditioner

    def raw(
        self,
        x0: Tensor,
        labels: Tensor | None,
        draws: Draws,
        partner: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Any:
        """What a condition of training samples x0 (B, C, *size) is made of; None for an unconditional model."""
        return None if self.conditioner is None else self.conditioner.raw(x0, labels, draws, partner, text)

    def condition(self, raw: Any) -> Condition | None:
        """The condition of raw values (B, ...), None for an unconditional model."""
        return None if self.conditioner is None or raw is None else self.conditioner(raw)


@dataclass(frozen=True)
class ModelFacts:
    """Everything a model folder says beside its weights.

    Args:
        data: what the samples are.
        objective: how it was trained.
        training: the training record (steps, samples seen, data fingerprint, configuration); plain JSON values.
        profiles: names of the EMA profiles, the default first.
    """

    data: DataSpec
    objective: Objective
    training: Mapping[str, Any] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()


class CorruptModel(ValueError):
    """A model folder that is damaged, foreign or incomplete."""


def describe(model: Model, facts: ModelFacts) -> dict[str, Any]:
    """The content of `model.json`, without the files' hashes."""
    from kakusan import __version__

    denoiser = model.denoiser
    return {
        "format": FORMAT,
        "kakusan": __version__,
        "denoiser": {
            "backbone": to_spec(denoiser.backbone),
            "schedule": to_spec(denoiser.trained_schedule),
            "parameterization": to_spec(denoiser.parameterization),
            "sigma_data": denoiser.sigma_data,
            "noise_map": to_spec(denoiser.noise_map),
            "independent_noise": denoiser.independent_noise,
            "learned_variance": denoiser.learned_variance,
        },
        "conditioner": None if model.conditioner is None else to_spec(model.conditioner),
        "data": to_spec(facts.data),
        "objective": to_spec(facts.objective),
        "training": to_spec(facts.training),
        "ema": list(facts.profiles),
    }


def build(description: Mapping[str, Any]) -> tuple[Model, ModelFacts]:
    """The model that a `model.json` describes, with fresh weights."""
    part = description["denoiser"]
    denoiser = Denoiser(
        from_spec(part["backbone"], nn.Module),
        from_spec(part["schedule"], NoiseSchedule),  # type: ignore[type-abstract]
        from_spec(part["parameterization"], Parameterization),  # type: ignore[type-abstract]
        sigma_data=float(part["sigma_data"]),
        noise_map=from_spec(part["noise_map"], NoiseMap),
        independent_noise=bool(part["independent_noise"]),
        learned_variance=bool(part.get("learned_variance", False)),
    )
    given = description["conditioner"]
    model = Model(denoiser, None if given is None else from_spec(given, Conditioner))
    facts = ModelFacts(
        from_spec(description["data"], DataSpec),
        from_spec(description["objective"], Objective),
        description.get("training", {}),
        tuple(description.get("ema", ())),
    )
    return model, facts


def write(
    folder: Path,
    model: Model,
    facts: ModelFacts,
    ema: Mapping[str, Mapping[str, Tensor]],
    extra: Mapping[str, Mapping[str, Tensor]] | None = None,
    texts: Mapping[str, str] | None = None,
) -> str:
    """Write a model folder into the existing, empty `folder`; returns the model's hash.

    Args:
        ema: tensors of each profile, by name.
        extra: further safetensors files (the optimizer's), by file name.
        texts: further text files, by file name.

    Raises:
        ValueError: a value that is not finite. Such a state is never saved.
        OSError: the files cannot be written (the disk is full).
    """
    networks = {f"{name}.safetensors": dict(network.state_dict()) for name, network in facts.data.networks().items()}
    return write_described(folder, model, describe(model, facts), ema, {**(extra or {}), **networks}, texts)


def write_described(
    folder: Path,
    model: nn.Module,
    description: Mapping[str, Any],
    ema: Mapping[str, Mapping[str, Tensor]],
    extra: Mapping[str, Mapping[str, Tensor]] | None = None,
    texts: Mapping[str, str] | None = None,
) -> str:
    """As `write`, for any module that `description` describes."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    averages = {f"{p}/{n}": v.detach().cpu().contiguous() for p, part in ema.items() for n, v in part.items()}
    files = {WEIGHTS: weights, EMA: averages}
    for name, tensors in (extra or {}).items():
        # An optimizer's tensors lie in memory as the weights do, channels last or not.
        files[name] = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    for name, tensors in files.items():
        for key, value in tensors.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise ValueError(f"{name}: {key} holds values that are not finite; this state is not saved")
    for name, tensors in files.items():
        try:
            save_file(tensors, str(folder / name))
        except SafetensorError as error:
            # The library hides the system's error number in its text.
            raise OSError(str(error)) from error
    for name, text in (texts or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    hashes = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in (*files, *(texts or {}))
    }
    content = json.dumps({**description, "files": hashes}, indent=1, ensure_ascii=False)
    (folder / FACTS).write_text(content + "\n", encoding="utf-8")
    return model_hash(folder)


def model_hash(folder: Path) -> str:
    """Hash of `model.json`, which holds the hashes of all weights."""
    return sha256(folder / FACTS)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of the `model.json` of a diffusion model.

    Raises:
        CorruptModel: missing, not JSON, of a format this version does not know, or of another kind of model.
    """
    return read_description(folder, "denoiser")


def read_description(folder: Path, part: str) -> dict[str, Any]:
    """The content of a `model.json`.

    Args:
        part: the entry that describes the model, one of `LOADERS`.

    Raises:
        CorruptModel: missing, not JSON, of a format this version does not know, or of another kind of model.
    """
    path = folder / FACTS
    if not path.is_file():
        raise CorruptModel(f"{folder} is not a model folder: it has no {FACTS}")
    if path.stat().st_size > _MAX_FACTS:
        raise CorruptModel(f"{path} is larger than any {FACTS} of kakusan's; it is not one")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CorruptModel(f"{path} is damaged: {error}") from None
    if not isinstance(facts, dict):
        raise CorruptModel(f"{path} was not written by kakusan")
    for other, loader in LOADERS.items():
        if other != part and "format" in facts and other in facts:
            raise CorruptModel(f"{folder} holds another kind of model ({other}): load it with {loader}")
    if "format" not in facts or part not in facts:
        raise CorruptModel(f"{path} was not written by kakusan")
    if facts["format"] != FORMAT:
        raise CorruptModel(
            f"{path} has format {facts['format']!r}; this version of kakusan reads format {FORMAT}: update kakusan"
        )
    return facts


def verified(folder: Path, name: str, facts: Mapping[str, Any]) -> Path:
    """The path of one file of a model folder, after its content was checked against `model.json`.

    Raises:
        CorruptModel: missing, cut short, changed, or a pickle in disguise (told by content, not by name).
    """
    path = folder / name
    if Path(name).name != name:
        raise CorruptModel(f"{folder / FACTS} names a file outside its folder: {name!r}")
    files = facts.get("files")
    known = files.get(name) if isinstance(files, dict) else None
    if not isinstance(known, dict) or not path.is_file():
        raise CorruptModel(f"{path} is missing; the model folder is incomplete")
    with open(path, "rb") as file:
        head = file.read(9)
    # safetensors begins with the length of its JSON header, whose bytes may be any, also those of a pickle (protocol 2
    # and up) or of a zip archive (torch.save); but then comes the header itself.
    if head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise CorruptModel(f"{path} is a pickle, not safetensors; kakusan never loads pickles, which can run any code")
    if path.stat().st_size != known.get("bytes") or sha256(path) != known.get("sha256"):
        raise CorruptModel(f"{path} is damaged: its content is not what {FACTS} says; use another checkpoint")
    return path


def read_tensors(folder: Path, name: str, facts: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of one file, checked against the size and hash in `model.json`.

    Raises:
        CorruptModel: as `verified`, or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = verified(folder, name, facts)
    try:
        tensors: dict[str, Tensor] = load_file(str(path))
    except SafetensorError as error:
        raise CorruptModel(f"{path} is damaged: {error}") from None
    return tensors


def read(folder: Path, *, weights: str | None = None) -> tuple[Model, ModelFacts, str]:
    """Load a model folder.

    Args:
        weights: an EMA profile, or "raw"; the default profile when None.

    Returns:
        the model, its facts, and the name of the weights that were loaded.
    """
    description = read_facts(folder)
    try:
        model, facts = build(description)
    except ValueError as error:
        raise CorruptModel(f"{folder / FACTS}: {error}") from None
    except Exception as error:
        # Whatever a changed file makes a constructor do, it is the file that is wrong.
        raise CorruptModel(f"{folder / FACTS} is incomplete or damaged: {error!r}") from None
    for name, network in facts.data.networks().items():
        put(network.eval().requires_grad_(False), read_tensors(folder, f"{name}.safetensors", description), folder)
    return model.eval(), facts, fill(model, folder, description, weights)


def fill(model: nn.Module, folder: Path, description: Mapping[str, Any], weights: str | None) -> str:
    """Load the tensors of a model folder into the model that it describes; returns the name of the weights.

    Args:
        weights: an EMA profile, or "raw"; the default profile when None.

    Raises:
        CorruptModel: damaged files, or tensors that are not those of `model`.
        ValueError: no such weights.
    """
    profiles = tuple(description.get("ema", ()))
    chosen = weights if weights is not None else (profiles[0] if profiles else RAW)
    if chosen not in (RAW, *profiles):
        raise ValueError(f"this model has the weights {', '.join((*profiles, RAW))}; {chosen!r} is none of them")
    tensors = read_tensors(folder, WEIGHTS, description)
    if chosen != RAW:
        prefix = chosen + "/"
        averages = read_tensors(folder, EMA, description)
        tensors.update({k.removeprefix(prefix): v for k, v in averages.items() if k.startswith(prefix)})
    put(model, tensors, folder)
    return chosen


def put(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Load tensors into the module that they are of.

    Raises:
        CorruptModel: tensors that are not those of `module`.
    """
    missing = module.state_dict().keys() ^ tensors.keys()
    if missing:
        raise CorruptModel(f"{folder}: weights and {FACTS} do not fit; they differ in {', '.join(sorted(missing)[:5])}")
    for name, value in module.state_dict().items():
        if value.shape != tensors[name].shape:
            raise CorruptModel(
                f"{folder}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
            )
    with torch.no_grad():
        module.load_state_dict(tensors)
