"""Law 6: save -> load -> same output, for every part; and damage of any kind is told, never loaded."""

import dataclasses
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kakusan import model_folder
from kakusan.building import build_model
from kakusan.choices import (
    ATTENTION,
    BLOCKS,
    DISTANCES,
    SCHEDULES,
    TIMES,
    build_objective,
    parameterizations,
    weightings,
)
from kakusan.conditioning import ClassLabels
from kakusan.config import ModelSettings, ObjectiveSettings
from kakusan.data.fit import FITS
from kakusan.data.spec import DataSpec
from kakusan.denoiser import Denoiser, LogSnrMap, TimeMap
from kakusan.model_folder import CorruptModel, Model, ModelFacts, build, describe, read, write
from kakusan.nn import UNet
from kakusan.pipeline import load
from kakusan.schedule_wrappers import Shifted, ZeroTerminalSnr

GOLDEN = Path(__file__).parent / "data_files" / "format-1"
ROOT = Path(__file__).resolve().parent.parent
CLASSES = ("rose", "薔薇", 'with "quotes" / and \\ strokes')


def spec(**changes: Any) -> DataSpec:
    values: dict[str, Any] = dict(channels=3, size=(8, 8), mean=(0.1, 0.0, -0.2), std=(0.5, 0.4, 0.6), mode="RGB")
    return DataSpec(**{**values, **changes})


def small(settings: ModelSettings | None = None, data: DataSpec | None = None) -> tuple[Model, ModelFacts]:
    """A tiny model with weights that are nowhere zero, and its facts."""
    data = data if data is not None else spec(classes=CLASSES)
    settings = settings if settings is not None else ModelSettings()
    model = build_model(dataclasses.replace(settings, width=4, depth=1, multipliers=(1, 2)), data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval(), ModelFacts(data, build_objective(ObjectiveSettings(), data), {"steps": 3}, ("ema-0.1", "b"))


def averages(model: Model) -> dict[str, dict[str, torch.Tensor]]:
    named = {name: p.detach() for name, p in model.named_parameters()}
    return {"ema-0.1": {n: v + 0.01 for n, v in named.items()}, "b": {n: v - 0.01 for n, v in named.items()}}


def saved(folder: Path, model: Model, facts: ModelFacts) -> Path:
    folder.mkdir(parents=True)
    write(folder, model, facts, averages(model))
    return folder


@torch.no_grad()
def output(model: Model) -> torch.Tensor:
    x = torch.randn(2, *model_shape(model), generator=torch.Generator().manual_seed(1))
    raw = torch.tensor([0, 1]) if model.conditioner is not None else None
    t = 0.5 * (model.denoiser.schedule.t_min + model.denoiser.schedule.t_max)
    return model.denoiser(x, t, model.condition(raw)).x0


def model_shape(model: Model) -> tuple[int, ...]:
    return (3, 8, 8)


def test_save_and_load_give_the_same_output(tmp_path: Path) -> None:
    model, facts = small()
    folder = saved(tmp_path / "m", model, facts)
    raw, raw_facts, chosen = read(folder, weights="raw")
    assert chosen == "raw"
    assert raw_facts == facts
    assert torch.equal(output(raw), output(model))
    for name, shift in ((None, 0.01), ("ema-0.1", 0.01), ("b", -0.01)):
        averaged, _, chosen = read(folder, weights=name)
        assert chosen == (name or "ema-0.1")
        expected = {n: p + shift for n, p in model.named_parameters()}
        assert all(torch.equal(p, expected[n]) for n, p in averaged.named_parameters())
    with pytest.raises(ValueError, match=r"ema-0\.1, b, raw; 'other' is none"):
        read(folder, weights="other")


def _possible(schedule: str, parameterization: str) -> bool:
    try:
        parameterizations(0.5)[parameterization].check(SCHEDULES[schedule])
    except ValueError:
        return False
    return True


PAIRS = [(a, b) for a in SCHEDULES for b in parameterizations(0.5) if _possible(a, b)]


@pytest.mark.parametrize(("schedule", "parameterization"), PAIRS)
def test_every_schedule_with_every_parameterization_comes_back(schedule: str, parameterization: str) -> None:
    model, facts = small(ModelSettings(schedule=schedule, parameterization=parameterization))
    description = json.loads(json.dumps(describe(model, facts)))
    again, again_facts = build(description)
    assert describe(again, again_facts) == describe(model, facts)
    again.load_state_dict(model.state_dict())
    assert torch.equal(output(again.eval()), output(model))


@pytest.mark.parametrize("blocks", list(BLOCKS))
@pytest.mark.parametrize("attention", list(ATTENTION))
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("classes", [(), CLASSES])
def test_every_kind_of_network_comes_back(
    tmp_path: Path, blocks: str, attention: str, patch: int, classes: tuple[str, ...]
) -> None:
    settings = ModelSettings(blocks=blocks, attention=attention, patch=patch, attention_levels=(1,), shift=2.0)
    model, facts = small(settings, spec(classes=classes))
    again, again_facts, _ = read(saved(tmp_path / "m", model, facts), weights="raw")
    assert again_facts == facts
    assert torch.equal(output(again), output(model))


@pytest.mark.parametrize("times", list(TIMES))
@pytest.mark.parametrize("weighting", list(weightings(0.5)))
@pytest.mark.parametrize("distance", list(DISTANCES))
def test_every_objective_comes_back(times: str, weighting: str, distance: str) -> None:
    from kakusan.objectives import Objective
    from kakusan.specs import from_spec, to_spec

    for stratified in (False, True):
        objective = build_objective(ObjectiveSettings(times, stratified, weighting, distance), spec())
        assert from_spec(json.loads(json.dumps(to_spec(objective))), Objective) == objective


@pytest.mark.parametrize("fit", list(FITS))
def test_every_data_spec_comes_back(fit: str) -> None:
    from kakusan.specs import from_spec, to_spec

    for data in (
        spec(fit=FITS[fit], flip=True, classes=CLASSES),
        spec(channels=5, mean=(0.0,) * 5, std=(0.3,) * 5, mode=""),
        spec(channels=1, mean=(0.0,), std=(0.3,), mode="I;16", bits=16, low=3.0, high=4000.0, size=(7, 9)),
    ):
        assert from_spec(json.loads(json.dumps(to_spec(data))), DataSpec) == data


def test_wrappers_noise_maps_and_coupling_come_back(tmp_path: Path) -> None:
    table = SCHEDULES["scaled-linear"]
    denoiser = Denoiser(
        UNet(channels=3, width=4, multipliers=[1], depth=1),
        Shifted(ZeroTerminalSnr(table), 3.0),
        parameterizations(0.5)["v"],
        sigma_data=0.7,
        noise_map=TimeMap(table, 1000.0),
        independent_noise=False,
    )
    data = spec()
    facts = ModelFacts(data, build_objective(ObjectiveSettings(), data), {}, ())
    (tmp_path / "m").mkdir()
    write(tmp_path / "m", Model(denoiser), facts, {})
    again, _, chosen = read(tmp_path / "m")
    assert chosen == "raw"
    assert again.denoiser.noise_map == denoiser.noise_map
    assert again.denoiser.schedule == denoiser.schedule
    assert again.denoiser.independent_noise is False
    assert torch.equal(output(again), output(Model(denoiser).eval()))


def test_a_model_loads_in_a_fresh_process(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", *small())
    script = f"import kakusan; model = kakusan.load({str(folder)!r}); print(model.classes[0], model.weights)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["rose", "ema-0.1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return saved(tmp_path_factory.mktemp("whole") / "m", *small())


@pytest.fixture
def folder(tmp_path: Path, whole: Path) -> Path:
    shutil.copytree(whole, tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("name", ["weights.safetensors", "ema.safetensors"])
def test_cut_changed_and_missing_files_are_told(folder: Path, name: str) -> None:
    file = folder / name
    content = file.read_bytes()
    generator = random.Random(0)
    for length in (0, 1, 7, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(CorruptModel, match=f"{name} is damaged"):
            read(folder)
    for _ in range(20):
        place, bit = generator.randrange(len(content)), 1 << generator.randrange(8)
        file.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        with pytest.raises(CorruptModel, match="is damaged|is a pickle"):
            read(folder)
    file.unlink()
    with pytest.raises(CorruptModel, match="is missing; the model folder is incomplete"):
        read(folder)
    file.write_bytes(content)
    read(folder)


class _Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("protocol", [0, 1, 2, 5, "torch"])
@pytest.mark.parametrize("hashed", [False, True])
def test_a_pickle_in_disguise_is_refused_unread(folder: Path, tmp_path: Path, protocol: Any, hashed: bool) -> None:
    file = folder / "weights.safetensors"
    trap = _Trap(tmp_path / "sprung")
    if protocol == "torch":
        torch.save({"weights": trap}, file)
    else:
        file.write_bytes(pickle.dumps(trap, protocol))
    if hashed:  # whoever made it also made the hashes fit
        facts = json.loads((folder / "model.json").read_text())
        facts["files"]["weights.safetensors"] = {"bytes": file.stat().st_size, "sha256": model_folder.sha256(file)}
        (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(CorruptModel, match="is a pickle, not safetensors|is damaged"):
        read(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("start", [b"\x80", b"PK"])
def test_a_header_whose_length_looks_like_a_pickle_is_no_pickle(tmp_path: Path, start: bytes) -> None:
    """A safetensors file begins with a length, and lengths are any bytes: every 32nd ends in those of a pickle."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    header += " " * ((int.from_bytes(start, "little") - len(header)) % 256 ** len(start))
    content = len(header).to_bytes(8, "little") + header.encode() + b"\0\0\x80\x3f"
    assert content.startswith(start)
    (tmp_path / "x.safetensors").write_bytes(content)
    digest = model_folder.sha256(tmp_path / "x.safetensors")
    known = {"files": {"x.safetensors": {"bytes": len(content), "sha256": digest}}}
    assert float(model_folder.read_tensors(tmp_path, "x.safetensors", known)["a"]) == 1.0


def test_bits_flipped_in_the_facts_never_end_in_a_crash(folder: Path) -> None:
    file = folder / "model.json"
    content = file.read_bytes()
    generator = random.Random(1)
    refused = 0
    for _ in range(150):
        place, bit = generator.randrange(len(content)), 1 << generator.randrange(8)
        file.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        try:
            read(folder)
        except ValueError:
            refused += 1
    assert refused > 50


def altered(folder: Path, change: Any) -> None:
    facts = json.loads((folder / "model.json").read_text())
    change(facts)
    (folder / "model.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: f.update(format=2), "format 2; this version of kakusan reads format 1: update kakusan"),
        (lambda f: f.update(format="1"), "format '1'"),
        (lambda f: f.pop("format"), "was not written by kakusan"),
        (lambda f: f.pop("data"), "incomplete or damaged: KeyError"),
        (lambda f: f["denoiser"].pop("schedule"), "incomplete or damaged"),
        (lambda f: f["denoiser"]["schedule"].update(type="Cosinus"), r"unknown type 'Cosinus'.*did you mean 'Cosine'"),
        (lambda f: f["denoiser"]["schedule"].update(type="os.system"), "unknown type"),
        (lambda f: f["denoiser"]["backbone"].update(widht=3), r"no argument 'widht' \(did you mean 'width'"),
        (lambda f: f["denoiser"].update(schedule={"type": "V"}), "expected a NoiseSchedule"),
        (lambda f: f["denoiser"]["backbone"].update(width=8), "shape"),
        (lambda f: f["denoiser"]["backbone"].update(width="8"), r"model\.json"),
        (lambda f: f["denoiser"]["backbone"].update(width=10**12), r"model\.json"),
        (lambda f: f["denoiser"].update(sigma_data=-1), "sigma_data must be positive"),
        (lambda f: f["denoiser"].update(sigma_data=None), "incomplete or damaged"),
        (lambda f: f.update(denoiser=[]), "incomplete or damaged"),
        (lambda f: f.update(ema=3), "incomplete or damaged"),
        (lambda f: f.update(files=[]), "is missing"),
        (lambda f: f["files"].pop("weights.safetensors"), "is missing"),
        (lambda f: f.update(conditioner=None), "do not fit|incomplete"),
    ],
)
def test_altered_facts_are_told(folder: Path, change: Any, match: str) -> None:
    altered(folder, change)
    with pytest.raises(CorruptModel, match=match):
        read(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}'])
def test_a_foreign_file_in_its_place_is_told(folder: Path, content: bytes) -> None:
    (folder / "model.json").write_bytes(content)
    with pytest.raises(CorruptModel, match=r"model\.json"):
        read(folder)


def test_other_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no run or model at"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="neither a run nor a model folder"):
        load(tmp_path)
    with pytest.raises(CorruptModel, match=r"has no model\.json"):
        model_folder.read_facts(tmp_path)


def test_foreign_tensors_are_told(folder: Path) -> None:
    file = folder / "weights.safetensors"
    tensors = load_file(str(file))
    tensors.pop(next(iter(tensors)))
    save_file(tensors, str(file))
    fact = {"bytes": file.stat().st_size, "sha256": model_folder.sha256(file)}
    altered(folder, lambda f: f["files"].update({"weights.safetensors": fact}))
    with pytest.raises(CorruptModel, match="weights and model.json do not fit; they differ in"):
        read(folder, weights="raw")


def test_files_outside_the_folder_are_never_opened(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="outside its folder"):
        model_folder.read_tensors(folder, "../secret.safetensors", {"files": {"../secret.safetensors": {}}})


def test_values_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    model, facts = small()
    next(iter(model.parameters())).data.fill_(torch.nan)
    (tmp_path / "m").mkdir()
    with pytest.raises(ValueError, match="not finite; this state is not saved"):
        write(tmp_path / "m", model, facts, {})
    assert not (tmp_path / "m" / "model.json").exists()


def test_the_hash_is_of_everything(whole: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    same = saved(tmp_path / "same", *small())
    assert model_folder.model_hash(same) == model_folder.model_hash(whole)
    torch.manual_seed(1)
    other = saved(tmp_path / "other", *small())
    assert model_folder.model_hash(other) != model_folder.model_hash(whole)


def test_the_parts_of_a_saved_model_are_what_they_were(whole: Path) -> None:
    model, _, _ = read(whole)
    assert isinstance(model.conditioner, ClassLabels)
    assert model.conditioner.classes == CLASSES
    assert model.denoiser.noise_map == LogSnrMap()


def test_a_folder_of_format_1_stays_readable_with_the_same_output() -> None:
    """Written once by `write_golden` below and never again; a change that breaks this breaks people's models."""
    expected = load_file(str(GOLDEN / "expected.safetensors"))
    pipeline = load(GOLDEN / "model")
    assert pipeline.classes == CLASSES
    assert pipeline.weights == "ema-0.1"
    assert pipeline.data.size == (8, 8)
    torch.testing.assert_close(output(pipeline.model), expected["average"], rtol=0, atol=1e-5)
    torch.testing.assert_close(output(load(GOLDEN / "model", weights="raw").model), expected["raw"], rtol=0, atol=1e-5)
    samples = pipeline.sample_tensor(labels=["rose", 1], seed=3, guidance_scale=2.0, num_steps=4)
    torch.testing.assert_close(samples, expected["samples"], rtol=0, atol=1e-4)


def write_golden() -> None:
    """How the folder above was made. Run it only for a new format, into a new folder."""
    torch.manual_seed(20)
    torch.set_num_threads(1)
    model, facts = small()
    shutil.rmtree(GOLDEN, ignore_errors=True)
    folder = saved(GOLDEN / "model", model, facts)
    pipeline = load(folder)
    expected = {
        "average": output(pipeline.model),
        "raw": output(load(folder, weights="raw").model),
        "samples": pipeline.sample_tensor(labels=["rose", 1], seed=3, guidance_scale=2.0, num_steps=4),
    }
    save_file(expected, str(GOLDEN / "expected.safetensors"))
