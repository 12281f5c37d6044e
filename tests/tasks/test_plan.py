"""`kakusan plan`: the table, the words, and a prediction beside a measurement."""

import contextlib
import io
import subprocess
from pathlib import Path

import pytest
from small_runs import settings

from kakusan.config import TrainConfig, merge
from kakusan.tasks.plan import plan_run, text
from kakusan.train import probe
from kakusan.train.plan import Variant, table_of
from kakusan.train.probe import Measured, Unmeasured, measure_apart


def measure(config: TrainConfig) -> Measured:
    n = config.engine.micro_batch or 1
    used = (2 + n) * 2**28 // (1 + config.engine.checkpointing)
    seconds = -(-config.run.batch // n) * (1.0 + n) * (1 + config.engine.checkpointing)
    return Measured(seconds + 1, seconds, used, used, 2.0, 3.0, 50.0, 2**33, "cpu", "fp32", 1, (32, 32))


def test_the_table_and_what_to_write_down() -> None:
    config = merge(TrainConfig(), {"run": {"batch": 16, "steps": 100, "precision": "fp32"}})
    said: list[str] = []
    plan = plan_run(config, memory="3G", sizes=[32], say=said.append, measure=measure)
    assert said == [
        "9 measurements at most, each in a process of its own and of at most 120 s: 18 min 0 s at the very most, "
        "usually a few seconds each"
    ]
    lines = text(plan, config).splitlines()
    assert lines[0].split() == ["size", "precision", "checkpointing", "at", "once", "memory", "a", "step", "samples/s"]
    cells = [line.split() for line in lines[1:11]]
    assert [row[3] for row in cells] == ["1", "2", "4", "8", "16"] * 2
    assert [row[2] for row in cells] == ["no"] * 5 + ["yes"] * 5
    # (2 + 8) / 4 GiB, 2 passes of 9 s, and a second for the optimizer.
    assert lines[4].split() == ["32", "fp32", "no", "8", "2.50", "GiB", "19", "s", "1", "measured,", "picked"]
    assert lines[5].split() == ["32", "fp32", "no", "16", "4.50", "GiB", "18", "s", "1", "predicted"]
    rest = "\n".join(lines[11:])
    assert rest.startswith("3.00 GiB may be used on cpu\npicked: 8 of 16 at once: 2.50 GiB, 19 s a step, measured with")
    assert "100 steps with all measurements and previews: about 32 min 30 s" in rest
    assert "options: --batch 16 --micro-batch 8\n" in rest
    assert rest.endswith("[engine]\nmicro_batch = 8\ncheckpointing = false")
    # What is printed is valid.
    assert merge(TrainConfig(), {"engine": {"micro_batch": 8, "checkpointing": False}}).engine.micro_batch == 8


def test_nothing_that_fits_is_said() -> None:
    config = merge(TrainConfig(), {"run": {"batch": 16}})
    plan = plan_run(config, memory="100M", say=lambda line: None, measure=measure)
    assert plan.picked is None
    assert text(plan, config).endswith(
        "nothing fits. Use a smaller --size or --width, --patch 2, or give it more --memory"
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [({"memory": "8"}, "as in 8G"), ({"limit": 0.0}, "limit is a positive"), ({"sizes": [0]}, "a size is a side")],
)
def test_wrong_options_are_refused_before_anything_is_measured(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        plan_run(TrainConfig(), say=lambda line: None, **options)


@pytest.mark.slow
def test_a_prediction_is_near_the_measurement(pictures: Path) -> None:
    """Peak memory of a process, predicted from a quarter and a half of the batch, within 20 %."""
    config = settings(
        pictures, data={"size": 32}, model={"width": 16}, run={"batch": 128, "measurements": 0, "previews": 0}
    )
    variant = Variant(32, "fp32", False)
    found = {n: measure_apart(variant.settings(config, n, n), 300.0) for n in (32, 64)}
    truth = measure_apart(variant.settings(config, 128, 128), 300.0)
    row = next(r for r in table_of(variant, 128, found) if r.at_once == 128)
    assert not row.measured
    assert row.bytes == pytest.approx(truth.bytes, rel=0.2)
    # The batch is most of what is measured, so that the line has something to say.
    assert truth.bytes > 1.4 * found[32].bytes
    assert truth.size == (32, 32)
    assert truth.free_bytes is not None


def test_a_measurement_that_cannot_be_made_says_why(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unmeasured, match="took longer than 0.01 s"):
        measure_apart(settings(pictures), 0.01)

    def here(command: list[str], *, input: str, **_: object) -> subprocess.CompletedProcess[str]:
        # What the process would do, without its imports; the test above starts real ones.
        assert command[1:] == ["-m", "kakusan.train.probe"]
        with monkeypatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
            patch.setattr("sys.stdin", io.StringIO(input))
            return subprocess.CompletedProcess(command, probe.main(), out.getvalue(), "")

    monkeypatch.setattr(probe.subprocess, "run", here)
    with pytest.raises(Unmeasured, match="did you mean 'cosine'"):
        measure_apart(settings(pictures, model={"schedule": "cosin"}), 120.0)
