"""The verb `train-autoencoder` on a tiny folder of pictures."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))

from small_runs import draw_pictures

import kakusan.autoencoders
from kakusan.cli import main


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_verb_leaves_a_model_and_a_page(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    draw_pictures(tmp_path / "data", size=16)
    options = [
        "--steps",
        "6",
        "--width",
        "8",
        "--batch",
        "8",
        "--features",
        "random",
        "--threads",
        "1",
        "--codes",
        "16",
    ]
    argv = ["train-autoencoder", "--data", tmp_path / "data", "--out", tmp_path / "ae", "--kind", kind, "--codes", "16"]
    argv += options
    assert main([str(a) for a in argv]) == 0
    said = capsys.readouterr().out
    assert "discriminator" in said
    assert "PSNR" in said
    assert ("KL by channel" if kind == "kl" else "codes used") in said
    page = (tmp_path / "ae" / "report.html").read_text()
    assert "Held-out pictures and what becomes of them" in page
    assert "data:image/png" in page
    assert (tmp_path / "ae" / "reconstructions.png").is_file()
    autoencoder = kakusan.autoencoders.load(tmp_path / "ae")
    assert autoencoder.kind == kind
    assert autoencoder.latent_shape((3, 16, 16)) == (4, 4, 4)
    assert torch.get_num_threads() == before
    assert main([str(a) for a in argv]) == 0
    assert "continuing" in capsys.readouterr().out
    assert main([str(a) for a in [*argv, "--factor", "8"]]) == 1
    assert "other settings (factor)" in capsys.readouterr().err


def test_an_autoencoder_is_not_taken_for_a_diffusion_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-autoencoder", "--out", str(tmp_path), "--kind", "gan"]) == 1
    assert "there are kl, vq" in capsys.readouterr().err
