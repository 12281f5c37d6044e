"""The cache of latents: those of the encoder, found again, made anew when stale, never written unsound."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_autoencoders import build, noise

from kakusan.autoencoders import Autoencoder, LatentCache
from kakusan.autoencoders import cache as caches
from kakusan.data.source import Subset


def stored(kind: str = "kl", identity: str = "a", seed: int = 0) -> Autoencoder:
    autoencoder = build(kind, seed=seed)
    autoencoder.identity = identity
    return autoencoder


@pytest.fixture
def mirrored(pictures) -> Subset:
    return Subset(pictures, range(len(pictures)), spec=dataclasses.replace(pictures.spec, flip=True))


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-6), ("float16", 2e-3)])
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_latents_are_those_of_the_encoder(kind: str, dtype: str, close: float, mirrored, tmp_path: Path) -> None:
    autoencoder = stored(kind)
    found = LatentCache.open(mirrored, autoencoder, path=tmp_path / "z.safetensors", dtype=dtype, batch=16)
    rows = [3, 39, 3, 0]
    x = mirrored.spec.to_model(mirrored.read(rows))
    sides = torch.tensor([False, True, True, False])
    x = torch.where(sides.view(-1, 1, 1, 1), x.flip(-1), x)
    with torch.no_grad():
        mean, std = autoencoder.moments(x)
    assert (len(found), found.shape, found.mirrored, found.draws) == (40, (4, 4, 4), True, kind == "kl")
    assert torch.allclose(found.read(rows, mirrored=sides), mean, rtol=close, atol=close)
    if std is not None:
        eps = noise(*mean.shape)
        drawn = found.read(rows, mirrored=sides, noise=eps)
        assert torch.allclose(drawn, mean + std * eps, rtol=2 * close, atol=4 * close)
    assert found.read(rows).dtype == torch.float32


def test_the_file_is_plain_safetensors(pictures, tmp_path: Path) -> None:
    place = tmp_path / "z.safetensors"
    found = LatentCache.open(pictures, stored(), path=place)
    tensors = load_file(str(place))
    assert sorted(tensors) == ["mean", "std"]
    assert torch.equal(tensors["mean"].float(), found.read(range(40)))


def test_what_fits_is_read_and_what_does_not_is_made_anew(pictures, tmp_path: Path, monkeypatch) -> None:
    place, said, written = tmp_path / "z.safetensors", [], []
    original = caches.write_latents
    monkeypatch.setattr(caches, "write_latents", lambda *a, **k: written.append(1) or original(*a, **k))

    def open_cache(data=pictures, autoencoder=None, **options) -> LatentCache:
        return LatentCache.open(data, autoencoder or stored(), path=place, say=said.append, **options)

    open_cache(), open_cache()
    assert len(written) == 1
    other = open_cache(autoencoder=stored(identity="b", seed=1))
    assert len(written) == 2
    assert "made again" in said[1]
    with torch.no_grad():
        x = pictures.spec.to_model(pictures.read([0]))
        assert torch.allclose(other.read([0]), stored(seed=1).encode(x), atol=1e-2)
    open_cache(data=Subset(pictures, range(10)))
    open_cache(data=Subset(pictures, range(10)), dtype="float32")
    open_cache(data=Subset(pictures, range(10)), dtype="float32", moments=False)
    assert len(written) == 5
    content = place.read_bytes()
    for damaged in (content[:-2], content[:5], b"", b"\xff" * 64, content + b"x"):
        place.write_bytes(damaged)
        open_cache(data=Subset(pictures, range(10)), dtype="float32", moments=False)
        assert place.read_bytes() == content


def test_the_usual_place_is_the_users_cache(pictures, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path))
    found = LatentCache.open(pictures, stored())
    assert found.path.parent == tmp_path / "latents"


def test_a_latent_that_is_not_finite_is_never_written_and_its_picture_is_named(pictures, tmp_path: Path) -> None:
    class Broken(type(stored())):
        def moments(self, x):
            mean, std = super().moments(x)
            bright = x.flatten(1).mean(1) == worst
            return torch.where(bright.view(-1, 1, 1, 1), torch.full_like(mean, float("nan")), mean), std

    worst = pictures.spec.to_model(pictures.read([17])).mean()
    autoencoder, place = stored(), tmp_path / "z.safetensors"
    autoencoder.__class__ = Broken
    with pytest.raises(ValueError, match=r"picture-17\.png is not finite"):
        LatentCache.open(pictures, autoencoder, path=place)
    assert list(tmp_path.iterdir()) == []


def test_a_latent_too_large_for_the_dtype_is_refused(pictures, tmp_path: Path) -> None:
    autoencoder = stored()
    autoencoder.latent_mean -= 1e6
    with pytest.raises(ValueError, match="dtype='float32'"):
        LatentCache.open(pictures, autoencoder, path=tmp_path / "z.safetensors")
    assert len(LatentCache.open(pictures, autoencoder, path=tmp_path / "z.safetensors", dtype="float32")) == 40


def test_what_was_not_kept_is_not_made_up(pictures, tmp_path: Path) -> None:
    found = LatentCache.open(pictures, stored(), path=tmp_path / "z.safetensors", moments=False)
    with pytest.raises(ValueError, match="moments=True"):
        found.read([0], noise=noise(1, 4, 4, 4))
    with pytest.raises(ValueError, match="mirrored"):
        found.read([0], mirrored=torch.tensor([True]))
    with pytest.raises(ValueError, match="outside the 40"):
        found.read([40])
    with pytest.raises(ValueError, match="float16 or float32"):
        LatentCache.open(pictures, stored(), path=tmp_path / "y", dtype="int8")
    with pytest.raises(ValueError, match="save this one"):
        LatentCache.open(pictures, stored(identity=""), path=tmp_path / "y")


def test_values_that_were_spoilt_on_disk_are_noticed(pictures, tmp_path: Path) -> None:
    place = tmp_path / "z.safetensors"
    LatentCache.open(pictures, stored(), path=place, moments=False)
    content = bytearray(place.read_bytes())
    content[-2:] = np.array([np.nan], "<f2").tobytes()
    place.write_bytes(bytes(content))
    found = LatentCache.open(pictures, stored(), path=place, moments=False)
    assert bool(found.read([0]).isfinite().all())
    with pytest.raises(ValueError, match="delete it"):
        found.read([39])
