"""The parts of DALL-E 2 as runs: a decoder of CLIP vectors and a prior, each in a folder that needs nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import settings, start
from test_resume import kill_nine
from test_text_runs import TEXT, captioned  # noqa: F401 (a fixture)

from kakusan.cli import main
from kakusan.config import merge
from kakusan.data.source import open_data
from kakusan.encoders.clip import Clip
from kakusan.encoders.folder import save
from kakusan.encoders.image import ConvolutionalTower
from kakusan.encoders.text import TextTower
from kakusan.encoders.tokenizer import Tokenizer
from kakusan.encoders.vector_data import VectorSpec
from kakusan.encoders.vectors import GivenVectors, ImageVectors
from kakusan.pipeline import KNOWN, load
from kakusan.prior import Prior, PriorSampling
from kakusan.report.png import read_record
from kakusan.train.clip import Captioned, embed
from kakusan.train.vector_models import PRIOR

FEW = ["--steps", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, captioned: Path) -> Path:  # noqa: F811
    """A CLIP that was never trained: its directions of pictures differ all the same."""
    torch.manual_seed(0)
    data = open_data(captioned)
    pairs = Captioned.of(data)
    tokenizer = Tokenizer.train([text for each in pairs.texts for text in each], size=300).json
    text = TextTower(tokenizer=tokenizer, width=32, depth=1, heads=1, length=16, vector_width=6)
    made = Clip(image=ConvolutionalTower(channels=3, vector_width=6, width=8, multipliers=(1,), patch=2), text=text)
    made.eval().measure_gap(*embed(made, pairs))
    folder = tmp_path_factory.mktemp("clip")
    save(folder, made, data.spec, {})
    return folder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory, pictures: Path, clip: Path) -> Path:
    """Trained on pictures without any caption."""
    out = tmp_path_factory.mktemp("decoder") / "run"
    start(settings(pictures, vectors={"clip": str(clip), "noise": 0.2}, run={"steps": 3, "previews": 1}), out)
    return out


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory, captioned: Path, clip: Path) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("prior")
    few = {"model": {"width": 64, "layers": 1}, "run": {"measurements": 1, "steps": 4, "batch": 8}}
    config = merge(settings(captioned), PRIOR)
    config = merge(merge(config, few), {"model": {"depth": 2}, "vectors": {"clip": str(clip), "prior": True}})
    start(config, folder / "whole")
    start(config, folder / "halves", stop_at=2)
    start(config, folder / "halves")
    return folder


def test_two_halves_are_the_whole(prior: Path) -> None:
    assert kill_nine.compare(prior / "halves", prior / "whole") == []


def test_the_folders_are_enough(decoder: Path, prior: Path) -> None:
    # Whoever loads a folder by a pipeline, in a fresh process too, knows the types that it names.
    assert {ImageVectors, VectorSpec} <= set(KNOWN)
    pipeline, vectors = load(decoder), Prior.open(prior / "whole")
    vectors.check_fits(pipeline)
    given = vectors.sample(["a red picture", "青い絵"], [3, 4], PriorSampling(num_steps=2))
    torch.testing.assert_close(given.spatial.norm(dim=1), torch.ones(2))
    # Each vector belongs to its own text and seed, and so does each picture.
    alone = vectors.sample(["青い絵"], [4], PriorSampling(num_steps=2))
    torch.testing.assert_close(alone.spatial[0], given.spatial[1])
    both = pipeline.sample_tensor(given=given, seed=3, num_steps=2)
    torch.testing.assert_close(
        pipeline.sample_tensor(given=alone, seed=4, num_steps=2)[0], both[1], atol=1e-4, rtol=0.0
    )


def test_a_vector_is_what_the_decoder_was_trained_on(decoder: Path, pictures: Path) -> None:
    pipeline = load(decoder)
    conditioner = pipeline.model.conditioner
    assert isinstance(conditioner, ImageVectors)
    assert pipeline.reads_texts
    data = open_data(pictures)
    first, second = (GivenVectors(conditioner.embed(data.spec.to_model(data.read([row])))) for row in (0, 20))
    drawn = [pipeline.sample_tensor(given=given, num_steps=2) for given in (first, second)]
    assert not torch.equal(*drawn)
    guided = pipeline.sample_tensor(given=first, num_steps=2, guidance_scale=2.0, negative="a blue picture")
    assert not torch.equal(guided, drawn[0])
    with pytest.raises(ValueError, match="a text or a vector, not both"):
        pipeline.sample_tensor(given=first, prompts=["a red picture"], num_steps=2)


def test_the_verbs(
    decoder: Path, prior: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, picture, other = str(decoder), str(pictures / "red" / "00.png"), str(pictures / "blue" / "03.png")
    asked = ["generate", run, "a red picture", "", "--num", "2", *FEW, "--negative", "a (blue:1.2) picture 🌷"]
    assert main([*asked, "--out", str(tmp_path / "g.png")]) == 0
    assert "weights of words" in (said := capsys.readouterr().out)
    assert "an empty text" in said
    by_prior = [*asked, "--prior", str(prior / "whole"), "--prior-steps", "2", "--out", str(tmp_path / "p.png")]
    assert main(by_prior) == 0
    assert "4 vectors" in capsys.readouterr().out
    record = read_record(tmp_path / "p.png")
    assert record["given"]["source"]["kind"] == "prior"
    assert record["prompt"] == "a red picture"
    by_bridge, by_vectors = (np.asarray(Image.open(tmp_path / name)) for name in ("g.png", "p.png"))
    assert not np.array_equal(by_bridge, by_vectors)
    assert main(["vary", run, picture, "--num", "2", "--strength", "1", *FEW, "--out", str(tmp_path / "v.png")]) == 0
    assert "own CLIP vector" in capsys.readouterr().out
    assert main(["interpolate", run, picture, other, "--frames", "3", *FEW, "--out", str(tmp_path / "i")]) == 0
    led = ["--from", "a red picture", "--to", "a blue picture", "--frames", "3", "--method", "edict"]
    assert main(["textdiff", run, picture, *led, *FEW, "--out", str(tmp_path / "t")]) == 0
    assert "cosine of each" in capsys.readouterr().out
    for folder in ("i", "t"):
        # With nothing changed the picture comes back.
        first = np.asarray(Image.open(tmp_path / folder / "00-000.png")).astype(int)
        assert np.abs(first - np.asarray(Image.open(picture)).astype(int)).max() <= 1
    assert read_record(tmp_path / "t" / "00-002.png")["texts"] == ["a red picture", "a blue picture"]


def test_what_does_not_go_together_is_refused(
    decoder: Path, prior: Path, pictures: Path, clip: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fails(*argv: object) -> str:
        assert main([str(a) for a in argv]) == 1
        return capsys.readouterr().err

    out = ["--out", tmp_path / "x.png"]
    assert "draws no CLIP vectors" in fails("generate", decoder, "a", "--prior", decoder, *out)
    assert "not pictures" in fails("generate", prior / "whole", "a", "--num", "1", *FEW, *out)
    texts = ["--from", "red", "--to", "blue"]
    assert "CLIP vectors" in fails("textdiff", prior / "whole", pictures / "red" / "00.png", *texts, *FEW, *out)
    for sections, match in (
        ({"vectors": {"clip": str(clip)}, "text": TEXT}, "leave out clip-vectors or text"),
        ({"vectors": {"clip": str(clip)}, "data": {"pair": "gray"}}, "starts from no picture"),
        ({"vectors": {"clip": str(clip)}, "data": {"channels": 1}}, "sees pictures with 3 channels"),
        ({"vectors": {"bridge": "shift"}}, "name a CLIP"),
        ({"vectors": {"clip": "nowhere"}}, "there is no CLIP"),
    ):
        with pytest.raises(ValueError, match=match):
            start(settings(pictures, **sections), tmp_path / "run")
