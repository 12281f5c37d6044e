"""Law 5: N steps = N/2 + an end at any instant + N/2, bit for bit on the CPU."""

import dataclasses
import importlib.util
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_runs import draw_pictures, settings, start

from kakusan.config import TrainConfig, read_toml, to_toml
from kakusan.model_folder import CorruptModel
from kakusan.run_folder import RunFolder
from kakusan.train.feed import Feed
from kakusan.train.run import TrainingRun, stored_config

ROOT = Path(__file__).resolve().parents[2]


def _kill_nine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_nine", ROOT / "benchmarks" / "kill_nine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


kill_nine = _kill_nine()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory):
    nursery = kill_nine.Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


def command(pictures: Path, out: Path) -> list[str]:
    return (
        f"train --data {pictures} --width 8 --depth 1 --batch 8 --warmup 3 --ema 0.1 0.05 --dropout 0.1 --flip "
        "--measurements 2 --previews 0 --threads 1 --device cpu --precision fp32 --checkpoints 6 --steps 12 "
        f"--out {out}"
    ).split()


@pytest.fixture(scope="module")
def whole(nursery, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    nursery.start(command(pictures, out))
    assert nursery.wait() == 0, nursery.output()
    return out


def test_killed_three_times_at_random_instants_a_run_ends_as_if_never_killed(
    nursery, whole: Path, pictures: Path, tmp_path: Path
) -> None:
    generator = random.Random(5)
    out = tmp_path / "run"
    kills = 0
    for number in range(3):
        process = nursery.start(command(pictures, out))
        # One while a checkpoint is being written, the others at random instants after some steps.
        if number == 1:
            while not list((out / "checkpoints").glob(".part-*")):
                time.sleep(0.0005)
        else:
            wanted = generator.randrange(1, 5) * (1 + number)
            while len(kill_nine.curve(out)) < wanted:
                time.sleep(0.001)
            time.sleep(generator.uniform(0.0, 0.05))
        os.kill(process, signal.SIGKILL)
        kills += nursery.wait() == -signal.SIGKILL
        kill_nine.check_whole(out)
    assert kills == 3
    nursery.start(command(pictures, out))
    assert nursery.wait() == 0, nursery.output()
    assert kill_nine.compare(out, whole) == []
    assert kill_nine.leftovers(out) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_ends_well(
    nursery, whole: Path, pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = nursery.start(command(pictures, out))
    while len(kill_nine.curve(out)) < 5:
        time.sleep(0.001)
    os.kill(process, number)
    assert nursery.wait() == 0
    reached = kill_nine.curve(out)[-1][0]
    assert kill_nine.check_whole(out) == reached < 12
    # The same folder, and no other option.
    nursery.start(["train", "--out", str(out)])
    assert nursery.wait() == 0, nursery.output()
    assert kill_nine.compare(out, whole) == []


def _losses(out: Path) -> list[tuple[int, float, float]]:
    return kill_nine.curve(out)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_two_halves_are_the_whole_in_one_process_too(pictures: Path, tmp_path: Path, kind: str) -> None:
    config = settings(pictures, model={"dropout": 0.2}, optim={"optimizer": kind}, engine={"micro_batch": 3})
    start(config, tmp_path / "whole")
    start(config, tmp_path / "halves", stop_at=3)
    assert len(_losses(tmp_path / "halves")) == 3
    start(config, tmp_path / "halves")
    assert kill_nine.compare(tmp_path / "halves", tmp_path / "whole") == []


def test_training_leaves_the_global_generator_alone(pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    start(settings(pictures, model={"dropout": 0.2}, run={"steps": 2}), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_a_run_keeps_its_number_of_threads(pictures: Path, tmp_path: Path) -> None:
    config = settings(pictures, run={"steps": 2})
    start(config, tmp_path / "run", stop_at=1)
    free = dataclasses.replace(config, run=dataclasses.replace(config.run, threads=None))
    run = TrainingRun(free, tmp_path / "run", say=lambda line: None)
    assert run.config.run.threads == 1
    fresh = TrainingRun(free, tmp_path / "other", say=lambda line: None)
    assert fresh.config.run.threads == torch.get_num_threads()
    torch.set_num_threads(1)


def test_a_longer_length_goes_on(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(settings(pictures, run={"steps": 2}), out)
    before = _losses(out)
    start(settings(pictures, run={"steps": 4}), out)
    assert [step for step, _, _ in _losses(out)] == [1, 2, 3, 4]
    assert _losses(out)[:2] == before
    assert read_toml(out / "config.toml")["run"]["steps"] == 4


def test_longer_minutes_go_on_and_the_same_minutes_do_not(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = settings(pictures, run={"steps": 2})
    start(config, out)
    minutes = dataclasses.replace(config, run=dataclasses.replace(config.run, steps=None, minutes=5.0))
    run = TrainingRun(minutes, out, say=lambda line: None)
    assert run.trainer.step == 2
    assert run.trainer.steps > 10


def test_changed_settings_are_refused_by_name(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(settings(pictures, run={"steps": 1}), out)
    with pytest.raises(ValueError, match=r"model\.width was 8, now 16.*optim\.rate was 0\.003, now 0\.1"):
        TrainingRun(settings(pictures, model={"width": 16}, optim={"rate": 0.1}), out)


def test_changed_data_are_refused_and_moved_data_are_not(tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(settings(draw_pictures(tmp_path / "first"), run={"steps": 1}), out)
    other = draw_pictures(tmp_path / "second", seed=1)
    with pytest.raises(ValueError, match="data are not those"):
        TrainingRun(settings(other, run={"steps": 2}), out, say=lambda line: None)
    shutil.move(tmp_path / "first", tmp_path / "moved")
    run = start(settings(tmp_path / "moved", run={"steps": 2}), out)
    assert run.trainer.step == 2


def test_lost_checkpoints_are_an_error_and_never_a_fresh_run(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = settings(pictures, run={"steps": 2})
    start(config, out)
    losses = _losses(out)

    def refused(match: str) -> None:
        with pytest.raises(CorruptModel, match=match):
            TrainingRun(settings(pictures, run={"steps": 4}), out, say=lambda line: None)
        assert _losses(out) == losses

    step = RunFolder(out).checkpoint(2)
    away = tmp_path / "away"
    step.rename(away)
    refused("step-00000002.*missing or incomplete; whole checkpoints here: step-00000000")
    (out / "latest").unlink()
    refused("latest is missing although there are checkpoints.*step-00000000")
    shutil.rmtree(out / "checkpoints")
    refused("its checkpoints are gone")


def test_a_checkpoint_of_another_run_is_refused(pictures: Path, tmp_path: Path) -> None:
    start(settings(pictures, run={"steps": 2}), tmp_path / "one")
    start(settings(pictures, run={"steps": 2, "seed": 3}), tmp_path / "two")
    place = RunFolder(tmp_path / "one").checkpoint(2)
    shutil.rmtree(place)
    shutil.copytree(RunFolder(tmp_path / "two").checkpoint(2), place)
    with pytest.raises(CorruptModel, match=r"another run \(run\.seed was 3, now 0\)"):
        TrainingRun(settings(pictures, run={"steps": 4}), tmp_path / "one", say=lambda line: None)


def test_an_altered_state_is_refused(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(settings(pictures, run={"steps": 2}), out)
    state = RunFolder(out).checkpoint(2) / "state.json"
    state.write_text(state.read_text().replace('"samples": 16', '"samples": 24'))
    with pytest.raises(CorruptModel, match=r"state\.json is damaged"):
        TrainingRun(settings(pictures, run={"steps": 4}), out, say=lambda line: None)


def test_sent_back_to_an_earlier_checkpoint_a_run_repeats_itself(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = settings(pictures, run={"steps": 6, "checkpoints": 6, "spaced": 6})
    start(config, out)
    losses = _losses(out)
    (out / "latest").write_text("step-00000002\n")
    start(config, out, stop_at=3)
    assert RunFolder(out).latest() == RunFolder(out).checkpoint(3)
    start(config, out)
    assert _losses(out) == losses


def test_a_run_that_began_from_a_model_and_was_killed_at_once_still_begins_from_it(
    pictures: Path, tmp_path: Path
) -> None:
    start(settings(pictures), tmp_path / "source")
    run = start(settings(pictures, run={"seed": 1}), tmp_path / "run", stop_at=1, init_from=tmp_path / "source")
    del run
    (tmp_path / "run" / "latest").write_text("step-00000000\n")
    again = TrainingRun(settings(pictures, run={"seed": 1}), tmp_path / "run", say=lambda line: None)
    from kakusan.pipeline import load

    source = load(tmp_path / "source").model.state_dict()
    assert all(torch.equal(v, source[n]) for n, v in again.model.state_dict().items())


def test_two_processes_cannot_train_in_one_folder(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = settings(pictures, run={"steps": 2})
    first, second = (TrainingRun(config, out, say=lambda line: None) for _ in range(2))
    lock = RunFolder(out).create(to_toml(config))
    with pytest.raises(ValueError, match="another process is training"):
        first.run()
    lock.close()
    first.run()
    with pytest.raises(ValueError, match="another process has trained in .* meanwhile"):
        second.run()


class Replaced:
    """Pictures with another `read`."""

    def __init__(self, pictures, read) -> None:
        self._pictures, self.read = pictures, read

    def __getattr__(self, name: str):
        return getattr(self._pictures, name)

    def __len__(self) -> int:
        return len(self._pictures)


def test_what_was_trained_is_kept_when_the_data_go_away(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def prepare(run: TrainingRun) -> None:
        read = run.training.read

        def failing(indices):
            seen.extend(indices)
            if len(seen) > 3 * 8:
                raise ValueError("the picture rose.png is gone")
            return read(indices)

        seen: list[int] = []
        run.trainer.feed.pictures = Replaced(run.training, failing)

    with pytest.raises(ValueError, match=r"rose\.png is gone"):
        start(settings(pictures), out, prepare=prepare)
    assert kill_nine.check_whole(out) == 3
    start(settings(pictures), out)
    start(settings(pictures), tmp_path / "whole")
    assert kill_nine.compare(out, tmp_path / "whole") == []


def test_reading_ahead_changes_no_batch(pictures: Path) -> None:
    from kakusan.data.source import open_data

    data = open_data(pictures, flip=True)
    plain = Feed(data, seed=4, batch=7)
    for ahead in (1, 2, 5):
        batches = Feed(data, seed=4, batch=7).read_ahead(3 * 7, ahead=ahead)
        for number in range(4):
            got, expected = next(batches), plain.batch((3 + number) * 7)
            assert torch.equal(got.x0, expected.x0)
            assert torch.equal(got.indices, expected.indices)
            assert got.raw is not None
            assert torch.equal(got.raw, expected.raw)
        batches.close()


def test_an_epoch_shows_every_picture_once(pictures: Path) -> None:
    from kakusan.data.source import open_data

    data = open_data(pictures)
    feed = Feed(data, seed=0, batch=6)
    seen = torch.cat([feed.batch(6 * i).indices for i in range(len(data) // 6)])
    assert sorted(seen.tolist()) == list(range(len(data)))


def test_the_stored_settings_are_the_settings(pictures: Path, tmp_path: Path) -> None:
    # How often to watch is settled before the first step where it is left open, and a resumed run keeps to it.
    config = settings(pictures, run={"steps": 1, "watch": 0})
    start(config, tmp_path / "run")
    assert stored_config(tmp_path / "run") == config
    assert stored_config(tmp_path / "nothing") is None
    facts = json.loads((RunFolder(tmp_path / "run").checkpoint(1) / "model.json").read_text())
    assert facts["training"]["config"]["data"]["source"] == str(pictures)
    assert isinstance(config, TrainConfig)
