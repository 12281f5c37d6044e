"""An autoencoder's folder: what goes in comes out, and nothing else is taken for one."""

import json
from pathlib import Path

import pytest
import torch
from test_autoencoders import build, noise

import kakusan.autoencoders
from kakusan.autoencoders import KINDS, folder, load
from kakusan.autoencoders.base import MEAN, STD
from kakusan.model_folder import CorruptModel, read_facts


@pytest.fixture
def stored(tmp_path: Path, pictures) -> Path:
    autoencoder = build()
    autoencoder.measure_latents(lambda: [pictures.spec.to_model(pictures.read(range(8)))])
    place = tmp_path / "stored"
    place.mkdir()
    folder.save(place, autoencoder, pictures.spec, {"steps": 3})
    return place


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_saved_is_loaded(kind: str, tmp_path: Path, pictures) -> None:
    autoencoder, x = build(kind), noise(2, 3, 12, 10)
    autoencoder.measure_latents(lambda: [x])
    identity = folder.save(tmp_path, autoencoder, pictures.spec, {"steps": 3})
    found = folder.read(tmp_path)
    assert (found.model_hash, found.weights, found.training["steps"]) == (identity, "raw", 3)
    assert found.autoencoder.identity == identity
    assert found.data == pictures.spec
    with torch.no_grad():
        z = autoencoder.encode(x)
        assert torch.equal(found.autoencoder.encode(x), z)
        assert torch.equal(found.autoencoder.decode(z, size=(12, 10)), autoencoder.decode(z, size=(12, 10)))
    assert not any(p.requires_grad for p in found.autoencoder.parameters())
    assert torch.equal(kakusan.autoencoders.load(tmp_path).encode(x), z)


def test_averages_bring_their_own_statistics_and_are_another_autoencoder(tmp_path: Path, pictures) -> None:
    autoencoder = build()
    average = {name: 0.5 * value for name, value in autoencoder.named_parameters()}
    average |= {MEAN: torch.full((4,), 2.0), STD: torch.full((4,), 3.0)}
    identity = folder.save(tmp_path, autoencoder, pictures.spec, {}, {"ema": average})
    default, raw = folder.read(tmp_path), folder.read(tmp_path, weights="raw")
    assert (default.weights, raw.weights) == ("ema", "raw")
    assert float(default.autoencoder.latent_std[0]) == 3.0
    assert float(raw.autoencoder.latent_std[0]) == 1.0
    assert default.autoencoder.identity == identity
    assert raw.autoencoder.identity not in ("", identity)
    with pytest.raises(ValueError, match="'other' is none of them"):
        load(tmp_path, weights="other")


def test_other_folders_are_refused_by_name(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no autoencoder at"):
        load(tmp_path / "nothing")
    with pytest.raises(CorruptModel, match="not a model folder"):
        load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format": 1, "denoiser": {}}))
    with pytest.raises(CorruptModel, match=r"another kind of model \(denoiser\): load it with kakusan.load"):
        load(tmp_path)
    with pytest.raises(CorruptModel):
        read_facts(stored)


def test_damage_and_pickles_are_noticed(stored: Path) -> None:
    facts = json.loads((stored / "model.json").read_text())
    for wrong in ({"type": "Linear"}, {"type": "KlAutoencoder", "channels": 3, "width": 8}, {}):
        (stored / "model.json").write_text(json.dumps({**facts, "autoencoder": wrong}))
        with pytest.raises(CorruptModel, match="incomplete or damaged"):
            load(stored)
    (stored / "model.json").write_text(json.dumps(facts))
    weights = stored / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    with pytest.raises(CorruptModel, match="damaged"):
        load(stored)
    weights.write_bytes(b"\x80\x04\x95" + content[3:8] + b"." + content[9:])
    with pytest.raises(CorruptModel, match="pickle"):
        load(stored)
    weights.write_bytes(content)
    assert load(stored).identity


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path, pictures) -> None:
    autoencoder = build()
    autoencoder.latent_mean[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        folder.save(tmp_path, autoencoder, pictures.spec, {})


def test_data_that_do_not_fit_are_refused(stored: Path, pictures) -> None:
    import dataclasses

    found, spec = folder.read(stored), pictures.spec
    found.check_fits(dataclasses.replace(spec, size=(64, 32)))
    gray = dataclasses.replace(spec, channels=1, mean=(0.0,), std=(1.0,), mode="L")
    with pytest.raises(ValueError, match="3 channels and 2 dimensions, these data have 1"):
        found.check_fits(gray)
    with pytest.raises(ValueError, match="values 0 to 255 of 8 bits"):
        found.check_fits(dataclasses.replace(spec, high=100.0))
