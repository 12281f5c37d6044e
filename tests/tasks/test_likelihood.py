"""`kakusan likelihood`: a run's own held-out pictures, others, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import draw_pictures

from kakusan.cli import main
from kakusan.tasks.likelihood import measure


def lines(run: Path, **options: object) -> list[str]:
    options = {"device": "cpu", "method": "bound", **DEFAULTS, **options}
    return list(measure(run, **options))  # type: ignore[arg-type]


DEFAULTS = {
    "draws": 4,
    "steps": None,
    "decoder": "categorical",
    "variance": "small",
    "dequantisation": "truncated-normal",
    "divergence": "hutchinson",
    "probes": 1,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decoder": "gaussian"},
        {"method": "discrete", "steps": 50},
        {"method": "discrete", "variance": "large", "decoder": "gaussian"},
        {"method": "flow", "steps": 3, "draws": 1},
        {"method": "flow", "steps": 3, "draws": 1, "dequantisation": "uniform", "probes": 2},
    ],
    ids=lambda o: "-".join(str(v) for v in o.values()) or "bound",
)
def test_every_way_measures_pictures_and_writes_all_it_did(
    trained: Path, pictures: Path, tmp_path: Path, options: dict
) -> None:
    out = tmp_path / "deep" / "likelihood.json"
    found = lines(trained, data=str(pictures), num=6, batch=4, out=out, **options)
    assert "6 pictures" in found[0]
    assert "conditions: labels" in found[0]
    assert any("to go" in line for line in found)
    assert "bits/dim" in found[-1]
    record = json.loads(out.read_text("utf-8"))
    assert record["n"] == 6
    assert record["dims"] == 3 * 8 * 8
    assert record["levels"] == 256
    assert record["bits_per_dim"] == pytest.approx(sum(record["terms_bits_per_dim"].values()))
    assert math.isfinite(record["bits_per_dim_error"])
    assert all(record[name] for name in ("model", "weights", "data", "schedule", "method"))


def test_a_picture_s_likelihood_does_not_depend_on_the_batch(trained: Path, pictures: Path, tmp_path: Path) -> None:
    found = []
    for batch in (1, 5):
        out = tmp_path / f"{batch}.json"
        lines(trained, data=str(pictures), num=5, batch=batch, out=out)
        found.append(json.loads(out.read_text("utf-8"))["nats"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_the_run_s_own_held_out_pictures(trained: Path) -> None:
    found = lines(trained)
    assert "of held-out" in found[0]
    assert "bits/dim" in found[-1]


def test_pictures_without_the_model_s_classes_are_measured_without_a_condition(trained: Path, tmp_path: Path) -> None:
    other = draw_pictures(tmp_path / "other", classes=("green", "white"), each=2)
    assert "conditions: null" in lines(trained, data=str(other))[0]


def test_pictures_that_do_not_fit_are_refused(trained: Path, tmp_path: Path) -> None:
    big = draw_pictures(tmp_path / "big", size=12, each=2)
    gray, deep = tmp_path / "gray", tmp_path / "deep"
    for folder, array in ((gray, np.zeros((8, 8), np.uint8)), (deep, np.full((8, 8), 9000, np.uint16))):
        folder.mkdir()
        Image.fromarray(array).save(folder / "a.png")
    for folder, match in ((big, "3 x 12 x 12"), (gray, "1 x 8 x 8"), (deep, "16 bits")):
        with pytest.raises(ValueError, match=match):
            lines(trained, data=str(folder))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "bond"}, "did you mean 'bound'"),
        ({"decoder": "categoric"}, "did you mean 'categorical'"),
        ({"method": "discrete", "variance": "smal"}, "did you mean 'small'"),
        ({"method": "discrete", "variance": "learned"}, "no learned variance"),
        ({"method": "flow", "divergence": "exakt"}, "did you mean 'exact'"),
        ({"method": "flow", "dequantisation": "unifrm"}, "did you mean 'uniform'"),
        ({"method": "flow", "draws": 2}, "exact divergence"),
        ({"num": 0}, "at least one picture"),
        ({"data": "nowhere"}, "no folder"),
    ],
)
def test_wrong_wishes_are_refused(trained: Path, pictures: Path, options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        lines(trained, **{"data": str(pictures), **options})


def test_the_command_line_prints_the_table(trained: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["likelihood", str(trained), "--data", str(pictures), "--num", "3", "--draws", "2", "--device", "cpu"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("prior", "reconstruction", "diffusion", "bits/dim"))
    assert main([*argv, "--method", "nothing"]) == 1
    assert "no method" in capsys.readouterr().err
