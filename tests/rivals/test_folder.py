"""Law 6 for rivals: save -> load -> same output; damage and folders of another kind are told, with the right loader."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import kakusan
from kakusan.data.source import ArrayPictures
from kakusan.model_folder import CorruptModel
from kakusan.rivals import folder, load
from kakusan.rivals.vae import Vae

GOLDEN = Path(__file__).parent.parent / "data_files" / "format-1"


@pytest.fixture(scope="module")
def saved(pictures: ArrayPictures, tmp_path_factory: pytest.TempPathFactory) -> tuple[Vae, Path]:
    torch.manual_seed(0)
    vae = Vae.for_data(pictures, width=8, patch=1, draws=1).eval()
    with torch.no_grad():
        vae.out.weight.normal_(std=0.1)
    path = tmp_path_factory.mktemp("rival")
    raw = {name: value.clone() for name, value in vae.named_parameters()}
    other = {name: value + 0.01 for name, value in raw.items()}
    folder.write(path, vae, {"steps": 3, "diverged": False}, {"ema-0.1": other, "ema-0.05": raw})
    return vae, path


def test_what_was_saved_comes_back(saved: tuple[Vae, Path]) -> None:
    vae, path = saved
    labels = torch.tensor([1, 0, 1])
    for weights in ("raw", "ema-0.05"):
        pipeline = load(path, weights=weights)
        assert torch.equal(pipeline.sample_tensor(labels=labels, seed=5), vae.sample([5, 6, 7], labels))
        assert pipeline.weights == weights
    usual = load(path)
    assert usual.weights == "ema-0.1"
    assert not torch.equal(usual.sample_tensor(labels=labels, seed=5), vae.sample([5, 6, 7], labels))
    assert (usual.kind, usual.classes, usual.data) == ("vae", ("dark", "light"), vae.spec)
    assert usual.training == {"steps": 3, "diverged": False}
    assert len(usual.model_hash) == 64


def test_samples_do_not_depend_on_batches_and_labels_may_be_names(saved: tuple[Vae, Path]) -> None:
    pipeline = load(saved[1])
    whole = pipeline.sample_tensor(labels=["light", 0, "light", 1, "dark"], seed=2)
    cut = pipeline.sample_tensor(labels=[1, 0, 1, 1, 0], seeds=[2, 3, 4, 5, 6], batch=2)
    torch.testing.assert_close(whole, cut, rtol=0, atol=1e-5)
    assert pipeline.sample_tensor(num=4).shape == (4, 3, 8, 8)
    assert pipeline.sample(num=2)[0].size == (8, 8)


def test_bits_do_not_depend_on_batches(saved: tuple[Vae, Path], pictures: ArrayPictures) -> None:
    pipeline = load(saved[1])
    stored, labels = pictures.read(range(5)), pictures.labels[:5]
    whole, cut = (pipeline.log_likelihood(stored, labels, seed=9, batch=n) for n in (5, 2))
    assert whole is not None
    assert cut is not None
    torch.testing.assert_close(whole, cut, rtol=1e-5, atol=1e-5)
    # A mixture of two equal shares is at least half of each: at most one bit more for the whole picture.
    mixed = pipeline.log_likelihood(stored, seed=9)
    assert bool((mixed <= whole + 1.0 / stored[0].numel() + 1e-6).all())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: p.sample_tensor(labels=["lihgt"]), "did you mean 'light'"),
        (lambda p: p.sample_tensor(labels=[2]), "label 2 is outside"),
        (lambda p: p.sample_tensor(labels=[0, 1], num=3), "disagree"),
        (lambda p: p.sample_tensor(labels="light"), "one label for each"),
        (lambda p: p.sample_tensor(num=0), "at least one"),
        (lambda p: p.log_likelihood(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [0]), "as many seeds and labels"),
        (lambda p: p.log_likelihood(torch.zeros(0, 3, 8, 8, dtype=torch.uint8)), "no pictures"),
    ],
)
def test_what_does_not_fit_is_refused(call, said: str, saved: tuple[Vae, Path]) -> None:
    with pytest.raises(ValueError, match=said):
        call(load(saved[1]))


def test_each_loader_names_the_other(saved: tuple[Vae, Path], tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"kakusan\.rivals\.load"):
        kakusan.load(saved[1])
    diffusion = next(path.parent for path in GOLDEN.rglob("model.json"))
    with pytest.raises(CorruptModel, match=r"kakusan\.load"):
        load(diffusion)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CorruptModel, match=r"kakusan\.load"):
        load(tmp_path)
    with pytest.raises(CorruptModel, match="not a model folder"):
        load(tmp_path / "checkpoints")


def _change(path: Path, change) -> None:
    facts = json.loads((path / "model.json").read_text(encoding="utf-8"))
    change(facts)
    (path / "model.json").write_text(json.dumps(facts), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: (p / "weights.safetensors").write_bytes(b"\x80\x04pickled"), "pickle"),
        (lambda p: (p / "ema.safetensors").write_bytes((p / "ema.safetensors").read_bytes()[:-1]), "damaged"),
        (lambda p: (p / "ema.safetensors").unlink(), "missing"),
        (lambda p: _change(p, lambda f: f.update(kind="gam")), "names the kind 'gam'"),
        (lambda p: _change(p, lambda f: f.update(format=9)), "format 9"),
        (lambda p: _change(p, lambda f: f["rival"].update(width=16)), "has shape"),
        (lambda p: _change(p, lambda f: f["rival"].update(widht=16)), "no argument 'widht'"),
        (lambda p: _change(p, lambda f: f["rival"].pop("spec")), "incomplete or damaged"),
        (lambda p: _change(p, lambda f: f.update(rival=f["rival"]["spec"])), "expected a Vae"),
        (lambda p: (p / "model.json").write_text("[]", encoding="utf-8"), "not written by kakusan"),
    ],
)
def test_damage_is_told(damage, said: str, saved: tuple[Vae, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved[1], copy)
    damage(copy)
    with pytest.raises(CorruptModel, match=said):
        load(copy)


def test_weights_that_are_not_finite_are_never_saved(saved: tuple[Vae, Path], tmp_path: Path) -> None:
    bad = {"x": torch.tensor([float("nan")])}
    with pytest.raises(ValueError, match="not finite"):
        folder.write(tmp_path, saved[0], {}, {"ema-0.1": bad})
    assert not (tmp_path / "model.json").exists()
