"""Runs on pairs: they learn, resume bit for bit, show what they do, and the model folder holds all of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import settings, start
from test_resume import kill_nine

from kakusan.cli import main
from kakusan.config import TrainConfig
from kakusan.data.source import open_data
from kakusan.pairs import PAIRS, Shrunk
from kakusan.pipeline import Pipeline, load
from kakusan.report.png import read_record
from kakusan.run_folder import RunFolder
from kakusan.train.adapt import adapt
from kakusan.train.continuing import stored_config
from kakusan.train.control import control_model
from kakusan.train.partners import Partners, open_partners
from kakusan.train.run import TrainingRun


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A run that has learnt to enlarge. Tests must not write into it."""
    out = tmp_path_factory.mktemp("paired") / "run"
    length = {"steps": 60, "batch": 16, "measurements": 2, "previews": 1, "checkpoints": 2}
    config = settings(pictures, data={"pair": "upscale-2"}, optim={"rate": 5e-3, "warmup": 5}, run=length)
    start(config, out)
    return out


@pytest.mark.parametrize(("pair", "labelled"), [("masked", False), ("given", True)])
def test_two_halves_are_the_whole(pictures: Path, tmp_path: Path, pair: str, labelled: bool) -> None:
    data = {"pair": pair, "flip": True, "augment": 0.3}
    if pair == "given":
        data |= {"pair_source": str(second_folder(pictures, tmp_path / "second")), "pair_noise": 0.2}
    model = {"dropout": 0.2, "conditional": labelled}
    config = settings(pictures, data=data, model=model, engine={"micro_batch": 3}, run={"measurements": 2, "steps": 4})
    start(config, tmp_path / "whole")
    start(config, tmp_path / "halves", stop_at=2)
    start(config, tmp_path / "halves")
    assert kill_nine.compare(tmp_path / "halves", tmp_path / "whole") == []


def second_folder(pictures: Path, folder: Path) -> Path:
    """Gray pictures that show where the first are bright, under the same names but for the suffix."""
    for path in pictures.rglob("*.png"):
        target = folder / path.relative_to(pictures).with_suffix(".bmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        array = np.asarray(Image.open(path)).mean(2)
        Image.fromarray(array.astype(np.uint8)).save(target)
    return folder


def test_the_model_folder_knows_its_pair(halved: Path) -> None:
    pipeline = load(halved)
    assert pipeline.pair == Shrunk(factor=2)
    assert pipeline.classes == ("blue", "red")
    described = json.loads((pipeline.path / "model.json").read_text())  # type: ignore[operator]
    assert described["conditioner"]["pair"] == {"type": "Shrunk", "factor": 2, "kernel": "box"}
    assert described["conditioner"]["noise"] == 0.4


def test_samples_follow_the_picture_they_start_from(halved: Path, pictures: Path) -> None:
    pipeline = load(halved)
    data = open_data(pictures)
    x0 = data.spec.to_model(data.read([0, 5, 13, 20]))
    y = pipeline.pair.made(x0, None)[0]  # type: ignore[arg-type]
    drawn = pipeline.sample_tensor(given=pipeline.given(y), num_steps=8)
    other = pipeline.sample_tensor(given=pipeline.given(y.flip(0)), num_steps=8)
    right, wrong = ((pipeline.pair.made(x, None)[0] - y).square().mean() for x in (drawn, other))  # type: ignore[arg-type]
    assert float(right) < 0.5 * float(wrong)
    # Alone as in a batch, guided too, and with the class.
    arguments = {"labels": [1], "guidance_scale": 2.0, "num_steps": 4}
    alone = pipeline.sample_tensor(given=pipeline.given(y[1:2], noise=0.2), seed=8, **arguments)
    several = pipeline.sample_tensor(
        given=pipeline.given(y[1:2], noise=0.2), seeds=[7, 8], **{**arguments, "labels": [1, 1]}
    )
    assert torch.allclose(alone[0], several[1], atol=1e-4)
    # A model on pairs also draws without any picture, of a class or not.
    assert pipeline.sample_tensor(labels=["red"], num_steps=2).shape == (1, 3, 8, 8)
    assert pipeline.sample_tensor(num=2, num_steps=2).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="seeds 3, given 2"):
        pipeline.run(pipeline.request(seeds=[1, 2, 3], given=pipeline.given(y[:2])))
    with pytest.raises(ValueError, match=r"noise of 0 to 0\.4"):
        pipeline.sample_tensor(given=pipeline.given(y, noise=0.5), num_steps=2)


def test_a_model_without_pairs_takes_no_picture(trained: Path, halved: Path) -> None:
    pipeline: Pipeline = load(trained)
    given = load(halved).given(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="not trained on pairs"):
        pipeline.sample_tensor(given=given, num_steps=2)
    with pytest.raises(ValueError, match="train one with --pair"):
        pipeline.given(torch.zeros(1, 3, 4, 4))


def test_previews_show_what_was_given_and_the_original(halved: Path) -> None:
    sheets = sorted(RunFolder(halved).samples.glob("step-*.png"))
    assert len(sheets) == 2
    assert read_record(sheets[0])["given"]["noise"] == 0.0
    kinds = [json.loads(line)["kind"] for line in (halved / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("training") == 2


def test_a_plain_model_is_taken_over(trained: Path, pictures: Path, tmp_path: Path) -> None:
    config = settings(pictures, data={"pair": "gray"}, run={"steps": 1})
    run = TrainingRun(config, tmp_path / "run", say=lambda line: None)
    found = adapt(run.model, trained, weights="raw")
    assert "denoiser.backbone.stem.weight" in found.resized
    # Nothing is heard of the picture yet: the network begins as the one it was.
    ours, theirs = run.model.denoiser.backbone, load(trained, weights="raw").model.denoiser.backbone
    assert torch.equal(ours.stem.weight[:, :3], theirs.stem.weight)
    assert float(ours.stem.weight[:, 3:].detach().abs().sum()) == 0.0
    assert "conditioner.labels.table.weight" in found.kept
    assert not any(name.startswith("denoiser.backbone.down") for name in (*found.resized, *found.new))


def test_settings_that_do_not_go_together_are_refused(pictures: Path, tmp_path: Path) -> None:
    def run(**data: object) -> TrainingRun:
        return TrainingRun(settings(pictures, data=data), tmp_path / "run", say=lambda line: None)

    with pytest.raises(ValueError, match="no pair 'upscale4'.*upscale-4"):
        run(pair="upscale4")
    with pytest.raises(ValueError, match="set pair too"):
        run(pair_noise=0.2)
    with pytest.raises(ValueError, match="name their folder by pair_source"):
        run(pair="given")
    with pytest.raises(ValueError, match="goes with pair = given"):
        run(pair="gray", pair_source=str(pictures))
    with pytest.raises(ValueError, match="between 0 and 1"):
        run(pair="gray", pair_noise=2.0)
    with pytest.raises(ValueError, match="embedded and has no file names"):
        run(pair="given", pair_source="flowers")


def test_partners_go_by_name(pictures: Path, tmp_path: Path) -> None:
    folder = second_folder(pictures, tmp_path / "second")
    data = open_data(pictures)
    partners = open_partners(data, str(folder))
    assert partners.channels == 1
    for index in (0, 7, 23):
        expected = np.asarray(Image.open(pictures / data.name(index))).mean(2).astype(np.uint8)
        assert np.allclose(partners.read([index])[0, 0].numpy(), expected / 127.5 - 1.0, atol=1e-6)
    shutil.copy(folder / "red" / "03.bmp", folder / "red" / "03.png")
    with pytest.raises(ValueError, match="called red/03"):
        Partners(data, open_data(folder))
    (folder / "red" / "03.png").unlink()
    (folder / "red" / "03.bmp").unlink()
    with pytest.raises(ValueError, match="1 of 24 pictures have no second one of the same name, such as red/03"):
        open_partners(data, str(folder))


def test_transform_from_what_is_given_and_from_an_original(
    halved: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = pictures / "red" / "01.png"
    common = ["--steps", "3", "--device", "cpu", "--num", "2"]
    code = main(["transform", str(halved), str(picture), "--original", *common, "--out", str(tmp_path / "a.png")])
    said = capsys.readouterr().out
    assert code == 0
    assert "PSNR" in said
    assert "evaluations for each of 2 pictures" in said
    record = read_record(tmp_path / "a.png")
    assert record["kind"] == "transform"
    assert record["pair"]["type"] == "Shrunk"
    small = tmp_path / "small.png"
    Image.open(picture).resize((4, 4)).save(small)
    code = main(["transform", str(halved), str(small), "--label", "red", *common, "--out", str(tmp_path / "files")])
    assert code == 0
    assert {"sample-0.png", "sample-1.png", "given.png", "sheet.png"} <= {
        p.name for p in (tmp_path / "files").iterdir()
    }
    assert np.asarray(Image.open(tmp_path / "files" / "given.png")).shape[:2] == (4, 4)
    capsys.readouterr()
    assert main(["transform", str(halved), str(picture), *common, "--out", str(tmp_path / "b.png")]) == 1
    assert "expected are 4 x 4" in capsys.readouterr().err
    assert main(["sample", "--from-png", str(tmp_path / "a.png"), "--out", str(tmp_path / "c.png")]) == 1
    assert "cannot be drawn again" in capsys.readouterr().err


def test_painting_again_keeps_what_is_known_bit_for_bit(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(settings(pictures, data={"pair": "masked"}, run={"steps": 2}), tmp_path / "run")
    picture = pictures / "red" / "01.png"
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 3:7] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    arguments = ["transform", str(tmp_path / "run"), str(picture), "--steps", "2", "--device", "cpu", "--num", "3"]
    assert main([*arguments, "--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "out")]) == 0
    assert "bit-equal" in capsys.readouterr().out
    before = np.asarray(Image.open(picture))
    for k in range(3):
        after = np.asarray(Image.open(tmp_path / "out" / f"sample-{k}.png"))
        assert np.array_equal(after[mask == 0], before[mask == 0])
        assert not np.array_equal(after[mask > 0], before[mask > 0])
    assert main([*arguments, "--out", str(tmp_path / "x.png")]) == 1
    assert "give a --mask" in capsys.readouterr().err


def test_noise_is_found_in_the_picture_or_given(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(settings(pictures, data={"pair": "noisy"}, run={"steps": 2, "previews": 1}), tmp_path / "run")
    picture = str(pictures / "red" / "01.png")
    arguments = ["transform", str(tmp_path / "run"), picture, "--steps", "2", "--device", "cpu", "--num", "1"]
    assert main([*arguments, "--noise", "0.1", "--out", str(tmp_path / "a.png")]) == 0
    assert "the noise in the picture is 0.1000 of the range" in capsys.readouterr().out
    assert main([*arguments, "--original", "--noise", "0.2", "--out", str(tmp_path / "a.png")]) == 0
    assert main([*arguments, "--noise", "5", "--out", str(tmp_path / "a.png")]) == 1
    assert "noise of 0 to 0.7" in capsys.readouterr().err
    assert main([*arguments, "--cover", "0.1", "--out", str(tmp_path / "a.png")]) == 1


def test_a_branch_learns_beside_a_frozen_model(
    trained: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load(trained)
    options = ["--pair", "edges", "--steps", "4", "--device", "cpu", "--threads", "1", "--rate", "1e-2"]
    options += ["--batch", "4"]
    assert main(["train-control", str(trained), *options, "--out", str(tmp_path / "run")]) == 0
    assert f"kakusan transform {tmp_path / 'run'} IMAGE --original" in capsys.readouterr().out
    first = Pipeline(control_model(trained, PAIRS["edges"], base.data), base.facts, weights="raw")
    y = torch.rand(2, 1, 8, 8) * 2.0 - 1.0
    asked = {"labels": [0, 1], "num_steps": 3, "guidance_scale": 1.0}
    # Before the first step the samples are those of the model alone, bit for bit.
    assert torch.equal(first.sample_tensor(given=first.given(y), **asked), base.sample_tensor(**asked))
    last = load(tmp_path / "run")
    assert not torch.equal(last.sample_tensor(given=last.given(y), **asked), base.sample_tensor(**asked))
    # And afterwards what was frozen is what it was: weights, their average and the classes.
    theirs = base.model.state_dict()
    for weights in ("raw", "ema-0.1"):
        mine = load(tmp_path / "run", weights=weights).model.state_dict()
        for name, value in theirs.items():
            place = name.replace("denoiser.backbone.", "denoiser.backbone.base.")
            place = place.replace("conditioner.table", "conditioner.labels.table")
            assert torch.equal(mine[place], value), name
    # The folder holds the base: it is not needed any more.
    config = read_config(tmp_path / "run")
    start(config, tmp_path / "halves", stop_at=2)
    start(config, tmp_path / "halves")
    assert kill_nine.compare(tmp_path / "halves", tmp_path / "run") == []
    assert main(["train-control", str(tmp_path / "run"), *options, "--out", str(tmp_path / "x")]) == 1
    assert "starts from a picture already" in capsys.readouterr().err


def read_config(run: Path) -> TrainConfig:
    found = stored_config(run)
    assert found is not None
    return found


def test_a_cascade_draws_small_and_enlarges(
    halved: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    for path in pictures.rglob("*.png"):
        target = small / path.relative_to(pictures)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((4, 4), Image.Resampling.BOX).save(target)
    start(settings(small, run={"steps": 2}), tmp_path / "base")
    arguments = ["--num", "3", "--steps", "2", "--device", "cpu", "--label", "red", "--out"]
    base = str(tmp_path / "base")
    assert main(["cascade", base, str(halved), *arguments, str(tmp_path / "sheet.png")]) == 0
    said = capsys.readouterr().out
    assert "8 x 8, covered by 0.2" in said
    stages = read_record(tmp_path / "sheet.png")["stages"]
    assert [stage["label_names"] for stage in stages] == [["red"] * 3] * 2
    assert main(["cascade", base, str(halved), "--cover", "0", *arguments, str(tmp_path / "files")]) == 0
    assert len(list((tmp_path / "files").glob("*.png"))) == 3
    assert np.asarray(Image.open(tmp_path / "files" / "00000.png")).shape[:2] == (8, 8)
    capsys.readouterr()
    for wrong, why in (
        ([base, base], "does not enlarge"),
        ([str(halved), str(halved)], "enlarges pictures of 4 x 4 with 3 channels"),
        ([base, str(halved), "--cover", "0.9"], "noise of 0 to 0.4"),
        ([base, str(halved), "--cover", "0.1", "0.2"], "2 levels of --cover were given for 1 upscalers"),
    ):
        assert main(["cascade", *wrong, *arguments, str(tmp_path / "x.png")]) == 1
        assert why in capsys.readouterr().err
