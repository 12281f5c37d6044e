"""The verbs that restore a picture: their options share one class, and no heavy library is loaded to say so."""

import re

import pytest

from kakusan.cli import VERBS, main

RESTORING = ("inpaint", "upscale", "deblur", "colorize", "denoise", "sense")
SHARED = (
    "--out --posterior --num --noise --label --guidance-scale --steps --grid --degrade --fit --seed --batch --weights "
    "--device --trajectory"
)


def text(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code in (0, 2)
    out, err = capsys.readouterr()
    return re.sub(r"[│\s]+", " ", out + err)


@pytest.mark.parametrize("verb", RESTORING)
def test_every_verb_has_the_shared_options_with_their_words(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert verb in VERBS
    shown = text(capsys, verb, "--help")
    for option in SHARED.split():
        assert option in shown
    assert "a share of the range from black to white" in shown
    assert re.search(r"usage: kakusan \S+ .*RUN IMAGE", shown)


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("inpaint", "MASK"),
        ("upscale", "--factor"),
        ("upscale", "--kernel"),
        ("deblur", "--blur"),
        ("deblur", "--motion"),
        ("sense", "--ratio"),
    ],
)
def test_a_verb_s_own_options_are_there(capsys: pytest.CaptureFixture[str], verb: str, option: str) -> None:
    assert option in text(capsys, verb, "--help")


def test_wrong_usage_ends_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--factor" in text(capsys, "upscale", "run", "a.png", "--facter", "2")
    assert "--steps" in text(capsys, "denoise", "run", "a.png", "--steps", "many")
    assert "required" in text(capsys, "inpaint", "run", "a.png").lower()
