"""Runs on captions: they learn words, resume bit for bit, and the model folder holds all of it."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import settings, start
from test_resume import kill_nine

from kakusan.cli import main
from kakusan.config import TextSettings
from kakusan.data.captions import Caption
from kakusan.data.source import ArrayPictures, open_data
from kakusan.designed import Designed
from kakusan.encoders.conditioner import TextConditioner
from kakusan.encoders.text import TextTower
from kakusan.encoders.tokenizer import Tokenizer
from kakusan.encoders.weighting import weighted
from kakusan.metrics.watching import WatchPlan
from kakusan.noise import Draws
from kakusan.pipeline import load
from kakusan.report.png import read_record
from kakusan.sweeping.publish import TABLE
from kakusan.tasks import following
from kakusan.tasks.again import again
from kakusan.tasks.following import Follower
from kakusan.train.pairing import _texts
from kakusan.train.reopen import reopen_parts
from kakusan.train.texts import Texts, prompts_for, texts_of

WORDS = {"blue": ("a blue picture", "青い絵"), "red": ("a red picture", "赤い絵")}
TEXT = {"encoder": "own", "vocabulary": 300, "length": 16, "width": 32, "layers": 1}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blue and red pictures whose captions say so, half of them in Japanese."""
    folder = tmp_path_factory.mktemp("captioned")
    generator = np.random.default_rng(0)
    rows = []
    for colour, texts in WORDS.items():
        for number in range(12):
            array = np.full((8, 8, 3), 20, np.uint8)
            array[..., 2 if colour == "blue" else 0] = 160
            row, column = generator.integers(0, 6, 2)
            array[row : row + 2, column : column + 2] = 240
            name = f"{colour}-{number:02d}.png"
            Image.fromarray(array).save(folder / name)
            rows.append({"file_name": name, "caption": texts[number % 2]})
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "caption"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, captioned: Path) -> Path:
    """A run that has learnt the words. Tests must not write into it."""
    out = tmp_path_factory.mktemp("texts") / "run"
    length = {"steps": 80, "batch": 16, "measurements": 2, "previews": 1, "checkpoints": 2}
    start(settings(captioned, text=TEXT, optim={"rate": 5e-3, "warmup": 5}, run=length), out)
    return out


def balance(x: torch.Tensor) -> torch.Tensor:
    """How much redder than blue pictures (B, 3, H, W) are."""
    return (x[:, 0] - x[:, 2]).mean((1, 2))


def test_two_halves_are_the_whole(captioned: Path, tmp_path: Path) -> None:
    config = settings(captioned, text=TEXT, engine={"micro_batch": 5}, run={"measurements": 2, "steps": 4})
    start(config, tmp_path / "whole")
    start(config, tmp_path / "halves", stop_at=2)
    start(config, tmp_path / "halves")
    assert kill_nine.compare(tmp_path / "halves", tmp_path / "whole") == []


def test_samples_follow_their_text_in_both_languages(reader: Path) -> None:
    pipeline = load(reader)
    assert pipeline.reads_texts
    assert pipeline.classes == ()
    asked = ["a red picture", "赤い絵", "a blue picture", "青い絵"]
    found = balance(pipeline.sample_tensor(prompts=asked, num_steps=8, guidance_scale=2.0))
    assert bool((found[:2] > 0.2).all())
    assert bool((found[2:] < -0.2).all())
    # A negative text leads away, and one prompt serves several pictures.
    arguments = {"num_steps": 8, "guidance_scale": 3.0, "num": 2}
    away = balance(pipeline.sample_tensor(prompts=[""], negative="a blue picture", **arguments))
    assert bool((away > 0.0).all())


def test_alone_as_in_a_batch_with_texts_of_other_lengths(reader: Path) -> None:
    pipeline = load(reader)
    prompts = ["red", "a blue picture", ""]
    together = pipeline.sample_tensor(prompts=prompts, seed=4, num_steps=4, guidance_scale=2.0)
    for place, prompt in enumerate(prompts):
        alone = pipeline.sample_tensor(prompts=[prompt], seed=4 + place, num_steps=4, guidance_scale=2.0)
        torch.testing.assert_close(alone[0], together[place], rtol=0.0, atol=1e-4)


def test_mixtures_of_texts_lie_between(reader: Path) -> None:
    pipeline = load(reader)
    options: dict[str, Any] = {"num_steps": 8, "seed": 2}
    red, blue = (pipeline.sample_tensor(prompts=[word], **options) for word in ("a red picture", "a blue picture"))
    half = pipeline.sample_tensor(prompts=["a red picture"], mixture={"a blue picture": 0.5}, **options)
    assert float(balance(blue)) < float(balance(half)) < float(balance(red))


def test_wrong_requests_are_refused(reader: Path, trained: Path) -> None:
    pipeline = load(reader)
    for arguments, match in (
        ({"prompts": "red"}, "a list with one text for each picture"),
        ({"prompts": ["red"], "labels": ["red"]}, "exclude each other"),
        ({"prompts": ["red", "blue"], "seeds": [1]}, "disagree"),
    ):
        with pytest.raises(ValueError, match=match):
            pipeline.sample_tensor(**arguments)
    with pytest.raises(ValueError, match="not trained on texts, so it takes no prompts; it knows the classes blue"):
        load(trained).sample(prompts=["red"])


def test_captions_are_dealt_out_by_sample(captioned: Path) -> None:
    data = open_data(captioned)
    texts = [[*each, "another"] for each in texts_of(data)]
    corpus = [text for each in texts for text in each]
    tower = TextTower(tokenizer=Tokenizer.train(corpus, size=300).json, width=32, depth=1, heads=1, length=16)
    made = Texts(texts, tower)
    indices, numbers = torch.zeros(400, dtype=torch.int64), torch.arange(400)
    taken = made.take(indices, Draws(torch.full((400,), 7), numbers))
    first = (taken == tower.tokens(texts[0][:1])).all(1)
    other = (taken == tower.tokens(["another"])).all(1)
    assert bool((first ^ other).all())
    assert 160 < int(first.sum()) < 240
    alone = made.take(indices[5:6], Draws(torch.tensor([7]), numbers[5:6]))
    assert torch.equal(alone[0], taken[5])


def test_data_without_captions_are_refused(pictures: Path, captioned: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no captions to learn words from"):
        start(settings(pictures, text=TEXT), tmp_path / "run")
    with pytest.raises(ValueError, match="there is no folder nowhere with a text encoder"):
        start(settings(captioned, text={"encoder": "nowhere"}), tmp_path / "run")
    with pytest.raises(ValueError, match="a control branch learns no texts"):
        start(settings(captioned, text=TEXT, data={"pair": "gray"}, model={"control": "nowhere"}), tmp_path / "run")
    with pytest.raises(ValueError, match=r"layers of \[text\] must be at least 1"):
        TextSettings(layers=0)


def test_the_tower_is_trained_along_and_saved(reader: Path) -> None:
    conditioner = load(reader).model.conditioner
    assert isinstance(conditioner, TextConditioner)
    fresh = TextTower(
        tokenizer=conditioner.encoder.tokenizer.json, width=32, depth=1, heads=1, length=16, vector_width=32
    )
    assert conditioner.encoder.state_dict().keys() == fresh.state_dict().keys()


def test_the_verb_draws_says_and_repeats(reader: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    long = "a red picture " * 40
    options = ["--num", "2", "--steps", "4", "--device", "cpu", "--negative", "green 🌷", "--out", str(out)]
    assert main(["generate", str(reader), "赤い絵", "", long, *options]) == 0
    said = capsys.readouterr().out
    assert "an empty text" in said
    assert "too long" in said
    assert "green" in said
    record = read_record(out)
    assert record["labels"][:3] == ["赤い絵", "赤い絵", ""]
    assert record["prompt"] == "赤い絵"
    assert "every pixel is equal" in list(again(out, tmp_path / "again.png", device="cpu"))[-1]
    assert main(["generate", str(reader), "赤い絵", "--num", "2", "--steps", "3", "--out", str(tmp_path / "f")]) == 0
    assert len(list((tmp_path / "f").glob("*.png"))) == 2
    words = tmp_path / "words.png"
    asked = ["a (red:1.3) picture", "", "--num", "1", "--steps", "3", "--device", "cpu", "--words", str(words)]
    assert main(["generate", str(reader), *asked, "--out", str(tmp_path / "one.png")]) == 0
    assert "an empty text has no words to show" in capsys.readouterr().out
    assert read_record(words)["kind"] == "words"
    assert main(["generate", str(reader), "a", "--num", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err


def test_other_verbs_take_texts_for_labels(reader: Path, tmp_path: Path) -> None:
    common = ["--steps", "3", "--device", "cpu"]
    assert main(["sample", str(reader), "--label", "a red picture", "--num", "2", *common,
                 "--out", str(tmp_path / "s.png")]) == 0  # fmt: skip
    assert main(["sample", str(reader), "--num", "2", *common, "--out", str(tmp_path / "n.png")]) == 0
    axis = ["--axis", "label=a red picture,a blue picture"]
    assert main(["sweep", str(reader), *axis, "--num", "1", *common, "--out", str(tmp_path / "w")]) == 0
    assert "a blue picture" in (tmp_path / "w" / TABLE).read_text(encoding="utf-8")


def test_a_model_of_texts_learns_to_fill_holes(
    reader: Path, captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GLIDE's way: the same words, a masked fine-tune, and a text that decides what is painted."""
    said: list[str] = []
    run = {"steps": 60, "batch": 16, "previews": 1, "checkpoints": 2}
    data = {"pair": "masked"}
    config = settings(captioned, data=data, text=TEXT, optim={"rate": 5e-3, "warmup": 5}, run=run)
    out = tmp_path / "run"
    start(config, out, init_from=reader, say=said.append)
    assert any("starting from" in line and " 0 left" in line for line in said)
    tower, before = (load(path).model.conditioner.asking.encoder for path in (out, reader))  # type: ignore[union-attr]
    assert tower.tokenizer.json == before.tokenizer.json
    picture = captioned / "blue-00.png"
    mask = np.zeros((8, 8), np.uint8)
    mask[1:7, 1:7] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    found = {}
    for text in ("a red picture", "a blue picture"):
        arguments = ["transform", str(out), str(picture), "--mask", str(tmp_path / "mask.png"), "--label", text]
        arguments += ["--guidance-scale", "2", "--steps", "8", "--num", "3", "--device", "cpu"]
        assert main([*arguments, "--out", str(tmp_path / text)]) == 0
        drawn = [np.asarray(Image.open(tmp_path / text / f"sample-{k}.png")) for k in range(3)]
        assert all(np.array_equal(x[mask == 0], np.asarray(Image.open(picture))[mask == 0]) for x in drawn)
        found[text] = float(np.mean([x[2:6, 2:6, 0].mean() - x[2:6, 2:6, 2].mean() for x in drawn]))
    assert found["a red picture"] > found["a blue picture"] + 20.0


def test_watching_a_model_of_texts_asks_it_with_captions(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        num = 48
        measure = staticmethod(lambda samples, **_: samples)
        labels = staticmethod(lambda: None)

    few, many = reopen_parts(load(reader))[::-1]
    monkeypatch.setattr(following, "reopen_parts", lambda *_: (few, many))
    monkeypatch.setattr(following, "Watcher", lambda *_, **__: Stub())
    found = Follower(reader, WatchPlan(num=48, num_steps=8), device="cpu", source=None).measure(80, print)
    assert found.origin["conditions"] == "captions of real pictures"  # type: ignore[union-attr]
    asked = prompts_for(few, many, 48)
    red = torch.tensor([any(word in text for word in ("red", "赤")) for text in asked])
    assert 0 < int(red.sum()) < 48
    assert torch.equal(balance(found.stored.float()) > 0, red)  # type: ignore[union-attr]


def test_brackets_of_a_caption_are_no_weights_where_it_is_shown(captioned: Path) -> None:
    data = open_data(str(captioned))
    said = "a [red] picture (of 2: bright)"
    written = ArrayPictures(data.spec, data.read(range(2)), texts=[[Caption(said, "en")], [Caption("x", "en")]])
    prompts = prompts_for(data, written, 2)
    assert [weighted(prompt).text for prompt in prompts] == [said, "x"]
    assert not any(weighted(prompt).spans or weighted(prompt).notes for prompt in prompts)
    assert _texts([[said]], torch.tensor([0])) == prompts[:1]


def test_what_enlarges_is_led_by_the_text_too(reader: Path, captioned: Path, tmp_path: Path) -> None:
    """Imagen's way: the same prompt goes to the base model and to the one that enlarges what it drew."""
    enlarger = settings(captioned, data={"pair": "upscale-2", "size": 16}, text=TEXT, run={"steps": 4})
    start(enlarger, tmp_path / "upscale")
    models = Designed.open(reader, upscalers=[tmp_path / "upscale"])
    request = models.request(prompts=["a red picture"], num_steps=2, guidance_scale=2.0)
    x0 = models.base.run(request)
    asked = models.of_stage(1, request, x0)
    assert asked.labels == ("a red picture",)
    assert asked.given is not None
    assert asked.given.noise == pytest.approx(0.2)
    pipeline = models.stages[1]
    large = pipeline.run(asked)
    assert large.shape == (1, 3, 16, 16)
    other = pipeline.run(replace(asked, labels=("a blue picture",)))
    assert float((large - other).abs().max()) > 1e-4
    # Led away from the empty text with the picture kept, and not from nothing at all.
    led, weak = (pipeline.run(replace(asked, guidance_scale=scale)) for scale in (3.0, 0.0))
    empty = pipeline.run(replace(asked, labels=("",)))
    assert torch.allclose(weak, empty, atol=1e-4)
    assert not torch.allclose(led, large, atol=1e-4)
