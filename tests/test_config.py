"""Settings: TOML there and back, wrong keys and types refused, lengths replaced and not mixed."""

import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakusan.config import DataSettings, ModelSettings, RunSettings, TrainConfig, merge, read_toml, to_toml, with_length
from kakusan.recipes import RECIPES
from kakusan.train.optim import OptimSettings

ROOT = Path(__file__).resolve().parent.parent

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
configs = st.builds(
    TrainConfig,
    data=st.builds(
        DataSettings,
        source=texts,
        size=st.none() | st.integers(1, 10**6),
        fit=texts,
        flip=st.booleans(),
        held_out=st.floats(0, 1, exclude_max=True),
        classes=st.lists(texts, max_size=3).map(tuple),
    ),
    model=st.builds(
        ModelSettings,
        width=st.integers(1, 999),
        multipliers=st.lists(st.integers(1, 9)).map(tuple),
        shift=st.floats(0.01),
    ),
    optim=st.builds(OptimSettings, rate=st.floats(1e-300, 1e300), warmup=st.integers(0, 10**9)),
    run=st.builds(
        RunSettings,
        steps=st.none() | st.integers(1, 10**12),
        minutes=st.none() | st.floats(1e-3, 1e9),
        seed=st.integers(0, 2**63 - 1),
        ema=st.lists(st.floats(0.01, 0.2)).map(tuple),
    ),
)


@given(configs)
def test_toml_there_and_back_is_the_same(config: TrainConfig) -> None:
    assert merge(TrainConfig(), tomllib.loads(to_toml(config))) == config


@given(configs)
def test_a_record_in_a_checkpoint_is_the_same(config: TrainConfig) -> None:
    assert merge(TrainConfig(), dataclasses.asdict(config)) == config


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_is_valid(name: str) -> None:
    from kakusan import building

    config = merge(TrainConfig(), RECIPES[name]())
    building.check(config)
    assert merge(TrainConfig(), tomllib.loads(to_toml(config))) == config


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[modle]\nwidth = 3", r"the file has an unknown key 'modle' \(did you mean 'model'\?\); known: data, model"),
        ("[model]\nwitdh = 3", r"\[model\] of the file has an unknown key 'witdh' \(did you mean 'width'"),
        ("width = 3", "the file has an unknown key 'width'"),
        ("model = 3", "model is a section of settings, got 3"),
        ("[model]\nwidth = '3'", r"width in \[model\] of the file must be a whole number, got '3'"),
        ("[model]\nwidth = 3.5", "must be a whole number, got 3.5"),
        ("[model]\nwidth = true", "must be a whole number, got True"),
        ("[optim]\nrate = 'fast'", "must be a number, got 'fast'"),
        ("[data]\nflip = 1", "must be true or false, got 1"),
        ("[data]\nsource = 3", "must be a text, got 3"),
        ("[data]\nclasses = 'rose'", "must be a list, each a text, got 'rose'"),
        ("[data]\nclasses = ['rose', 3]", "must be a text, got 3"),
        ("[run]\nema = 0.1", "must be a list, each a number, got 0.1"),
        ("[run]\nsteps = 0", "steps must be at least 1, got 0"),
        ("[run]\nbatch = 0", "batch must be at least 1"),
        ("[run]\nminutes = 0", "minutes must be a positive number"),
        ("[run]\nminutes = nan", "minutes must be a positive number"),
        ("[run]\nminutes = inf", "minutes must be a positive number"),
        ("[run]\nseed = -1", "seed is a whole number from 0"),
        ("[run]\nseed = 9223372036854775808", "seed is a whole number from 0"),
        ("[run]\nthreads = 0", "threads must be at least 1"),
        ("[run]\npreviews = -1", "previews counts events"),
        ("[optim]\nrate = -1", "expected rate > 0"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=match):
        merge(TrainConfig(), read_toml(tmp_path / "a.toml"), "the file")


@pytest.mark.parametrize("content", [b"[model", b"a = \xff", b"a = 1\na = 2", b"\x80\x04\x95"])
def test_files_that_are_no_toml_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.toml is not valid TOML"):
        read_toml(tmp_path / "a.toml")
    with pytest.raises(ValueError, match="there is no configuration file"):
        read_toml(tmp_path / "b.toml")


def test_whole_numbers_stand_for_numbers() -> None:
    assert merge(TrainConfig(), {"optim": {"rate": 1}, "run": {"minutes": 3}}).optim.rate == 1.0


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ({"minutes": 3.0}, {"steps": 5}, (5, None)),
        ({"steps": 5}, {"minutes": 3.0}, (None, 3.0)),
        ({"steps": 5}, {}, (5, None)),
        ({"minutes": 3.0}, {"minutes": None, "batch": 7}, (None, 3.0)),
    ],
)
def test_a_later_length_replaces_an_earlier_one(first: dict, then: dict, expected: tuple[Any, Any]) -> None:
    config = merge(TrainConfig(), {"run": first})
    config = merge(with_length(config, {"run": then}), {"run": {k: v for k, v in then.items() if v is not None}})
    assert (config.run.steps, config.run.minutes) == expected


def test_settings_need_no_torch() -> None:
    script = "import sys, kakusan.config, kakusan.recipes; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False", "False"]
