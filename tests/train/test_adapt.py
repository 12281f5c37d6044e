"""--init-from: what is kept, resized and new is said, and is so."""

from pathlib import Path

import pytest
import torch
from small_runs import draw_pictures, settings, start

from kakusan.pipeline import load
from kakusan.train.adapt import adapt
from kakusan.train.run import TrainingRun


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("source")
    draw_pictures(place / "pictures", classes=("blue", "red"))
    start(settings(place / "pictures"), place / "run")
    return place / "run"


def fresh(tmp_path: Path, classes: tuple[str, ...], **model: object) -> TrainingRun:
    draw_pictures(tmp_path / "pictures", classes=classes)
    return TrainingRun(settings(tmp_path / "pictures", model=model), tmp_path / "run", say=lambda line: None)


def test_the_same_model_keeps_everything(source: Path, tmp_path: Path) -> None:
    run = fresh(tmp_path, ("blue", "red"))
    found = adapt(run.model, source)
    assert (found.resized, found.new, found.left) == ((), (), ())
    # The default average of the source, not its raw weights.
    expected = load(source).model.state_dict()
    assert len(found.kept) == len(expected)
    assert all(torch.equal(v, expected[n]) for n, v in run.model.state_dict().items())


def test_class_vectors_go_by_name(source: Path, tmp_path: Path) -> None:
    run = fresh(tmp_path, ("amber", "red", "teal"))
    table = run.model.conditioner.table.weight  # type: ignore[union-attr]
    before = table.detach().clone()
    found = adapt(run.model, source)
    assert found.resized == ("conditioner.table.weight",)
    assert found.new == ()
    old = load(source).model.conditioner.table.weight  # type: ignore[union-attr]
    assert torch.equal(table[1], old[1])  # red
    assert torch.equal(table[3], old[2])  # no class
    assert torch.equal(table[[0, 2]], before[[0, 2]])  # amber and teal were unknown


def test_a_wider_model_takes_over_the_common_part(source: Path, tmp_path: Path) -> None:
    run = fresh(tmp_path, ("blue", "red"), width=16)
    before = {n: v.clone() for n, v in run.model.state_dict().items()}
    found = adapt(run.model, source)
    theirs = load(source).model.state_dict()
    assert found.resized
    assert set(found.kept) | set(found.resized) | set(found.new) == set(before)
    for name in found.resized:
        value, old = run.model.state_dict()[name], theirs[name]
        part = tuple(slice(min(a, b)) for a, b in zip(value.shape, old.shape, strict=True))
        assert torch.equal(value[part], old[part])
        outside = torch.ones_like(value, dtype=torch.bool)
        outside[part] = False
        assert torch.equal(value[outside], before[name][outside])
    for name in found.new:
        assert torch.equal(run.model.state_dict()[name], before[name])


def test_a_deeper_model_says_what_is_new_and_a_plainer_one_what_is_left(source: Path, tmp_path: Path) -> None:
    deeper = adapt(fresh(tmp_path / "a", ("blue", "red"), depth=2).model, source)
    assert deeper.new
    assert "new: " in deeper.text()
    plainer = adapt(fresh(tmp_path / "b", ("blue", "red"), conditional=False).model, source)
    assert "conditioner.table.weight" in plainer.left
    assert plainer.text().startswith(f"{len(plainer.kept)} tensors kept")


def test_another_meaning_of_the_output_is_said(source: Path, tmp_path: Path) -> None:
    run = fresh(tmp_path, ("blue", "red"), parameterization="eps", schedule="rectified")
    text = adapt(run.model, source).text()
    assert "V" in text
    assert "Eps" in text
    assert "Cosine" in text
    assert "Rectified" in text


def test_a_run_says_it_and_begins_there(source: Path, tmp_path: Path) -> None:
    said: list[str] = []
    draw_pictures(tmp_path / "pictures", classes=("blue", "red"))
    config = settings(tmp_path / "pictures", optim={"rate": 1e-12})
    run = start(config, tmp_path / "run", init_from=source, say=said.append)
    assert any("tensors kept, 0 resized, 0 new, 0 left" in line for line in said)
    expected = load(source).model.state_dict()
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9)


def test_nothing_in_common_is_refused(tmp_path: Path, source: Path) -> None:
    from torch import nn

    from kakusan.denoiser import Denoiser
    from kakusan.model_folder import Model
    from kakusan.parameterizations import V
    from kakusan.schedules import Cosine

    other = Model(Denoiser(nn.Conv2d(3, 3, 1), Cosine(), V()))
    with pytest.raises(ValueError, match="no tensor of .* fits this model"):
        adapt(other, source)
    with pytest.raises(ValueError, match="there is no run or model"):
        adapt(other, tmp_path / "nothing")
