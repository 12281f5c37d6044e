"""Networks of others: found on disk or refused, never downloaded; what they see is named exactly."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kakusan.data.spec import DataSpec
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces import features, open_spaces
from kakusan.metrics.spaces.pretrained import DINOV2, INCEPTION, to_rgb


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed")


def real(channels: int = 3, num: int = 12, bits: int = 8, mode: str | None = None) -> Reference:
    rng = np.random.default_rng(channels)
    stored = rng.integers(0, 2**bits, (num, channels, 20, 16)).astype(np.uint8 if bits == 8 else np.uint16)
    some = PictureSet(torch.from_numpy(stored), DataSpec.measure(stored, mode=mode))
    return Reference(some, some, some, some)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INCEPTION, raising=False)
    monkeypatch.delenv(DINOV2, raising=False)


@pytest.mark.parametrize(("name", "variable"), [("inception", INCEPTION), ("dinov2", DINOV2)])
def test_weights_are_asked_for_and_never_downloaded(
    name: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"never downloads; name it as {name}=PATH or in .* {variable}"):
        open_spaces([name], real())
    with pytest.raises(ValueError, match="nothing is there"):
        open_spaces([f"{name}={tmp_path / 'no'}"], real())
    monkeypatch.setenv(variable, str(tmp_path / "neither"))
    with pytest.raises(ValueError, match="neither.*nothing is there"):
        open_spaces([name], real())


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    place = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    torch.save({"fc.bias": torch.zeros(3)}, place)
    with pytest.raises(ValueError, match=r"not a safetensors file .* save_file"):
        open_spaces([f"inception={place}"], real())


def test_pictures_become_eight_bit_rgb() -> None:
    def turned(channels: int, x: list[float], mode: str | None = None, bits: int = 8) -> list[float]:
        convert, _ = to_rgb(real(channels, bits=bits, mode=mode).pool.spec)
        return convert(torch.tensor(x).view(1, channels, 1, 1)).flatten().tolist()

    assert turned(3, [-1.0, 0.0, 1.0]) == [0.0, 128.0, 255.0]
    assert turned(1, [1.0]) == [255.0] * 3
    assert turned(1, [0.2], bits=16) == [153.0] * 3
    # Behind what is transparent there is white; what is opaque stays.
    assert turned(4, [-1.0, 0.0, 1.0, -1.0]) == [255.0] * 3
    assert turned(4, [-1.0, 0.0, 1.0, 1.0]) == [0.0, 128.0, 255.0]
    assert turned(2, [-1.0, 0.0]) == [128.0] * 3
    assert turned(3, [-3.0, 0.0, 3.0]) == [0.0, 128.0, 255.0]


@pytest.mark.parametrize(("channels", "mode"), [(5, None), (2, ""), (4, "")])
def test_channels_that_are_no_colours_are_refused(channels: int, mode: str | None) -> None:
    with pytest.raises(ValueError, match="not what a network trained on photographs sees"):
        to_rgb(real(channels, mode=mode).pool.spec)


def tiny_dinov2(folder: Path, seed: int = 0) -> Path:
    transformers = library("transformers")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=56, image_size=112, mlp_ratio=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("channels", "mode"), [(1, None), (2, None), (3, None), (4, None)])
def test_dinov2_from_a_folder(channels: int, mode: str | None, tmp_path: Path) -> None:
    place = tiny_dinov2(tmp_path)
    reference = real(channels, mode=mode)
    space = open_spaces([f"dinov2={place}"], reference)[0]
    found = features(space, reference.pool)
    assert found.shape == (12, 16)
    torch.testing.assert_close(space(reference.pool.x()[4:5]).double(), found[4:5], atol=1e-5, rtol=1e-5)
    assert "224 x 224 by torch bicubic, antialias" in space.resizer


def test_dinov2_by_the_environment_and_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tiny_dinov2(tmp_path / "one"), tiny_dinov2(tmp_path / "other", seed=1)
    monkeypatch.setenv(DINOV2, str(one))
    first = open_spaces(["dinov2"], real())[0]
    assert open_spaces([f"dinov2={one}"], real())[0].hash == first.hash
    assert open_spaces([f"dinov2={other}"], real())[0].hash != first.hash


def test_half_a_dinov2_is_refused(tmp_path: Path) -> None:
    place = tiny_dinov2(tmp_path)
    from safetensors.torch import load_file

    tensors = load_file(place / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "attention" not in k}, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="whole DINOv2 model"):
        open_spaces([f"dinov2={place}"], real())
    (place / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="does not hold a DINOv2 model"):
        open_spaces([f"dinov2={place}"], real())


def test_inception_from_a_file(tmp_path: Path) -> None:
    fidelity = library("torch_fidelity")
    network = blank_inception(fidelity)
    place = tmp_path / "inception.safetensors"
    save_file({name: v.contiguous() for name, v in network.state_dict().items()}, place)
    reference = real(num=2)
    space = open_spaces([f"inception={place}"], reference)[0]
    found = space(reference.pool.x())
    assert found.shape == (2, 2048)
    # The same as the library's own way to its features.
    assert torch.equal(found, network(reference.pool.stored)[0])
    assert space.resizer == "RGB, 8 bits; 299 x 299 by TensorFlow 1 bilinear, no antialias"
    save_file({"fc.bias": torch.zeros(3)}, place)
    with pytest.raises(ValueError, match="do not fit the network"):
        open_spaces([f"inception={place}"], reference)


def blank_inception(fidelity: Any) -> Any:
    """The library's network with drawn weights, its loading of weights left out."""
    network_class = fidelity.FeatureExtractorInceptionV3

    class Blank(network_class):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            return None

    import io

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Blank("inception", ["2048"], feature_extractor_weights_path=nothing)
