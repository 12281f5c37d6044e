"""`kakusan eval` from the inside: equal to the bit, whole when stopped, and any tool's pictures beside real ones."""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_runs import settings, start

from kakusan.data import flowers
from kakusan.data.source import ArrayPictures
from kakusan.metrics.classifier import Classifier, train_classifier
from kakusan.metrics.reference import Reference
from kakusan.metrics.results import EvaluationResult, compare
from kakusan.metrics.two_sample import TwoSampleNetwork
from kakusan.pipeline import load
from kakusan.report import evaluation as page
from kakusan.tasks import eval_parts, evaluate
from kakusan.tasks.eval_samples import draw_samples, pace_of_sampling
from kakusan.tasks.evaluate import EvaluationSettings, evaluate_run

DATA = {"num": 128, "size": 8}
FEW = {
    "num": 32,
    "num_steps": 3,
    "batch": 16,
    "device": "cpu",
    "spaces": ("random",),
    "distances": ("frechet", "recall"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on small flowers. Its own `eval` folder is not used."""
    out = tmp_path_factory.mktemp("runs") / "flowers"
    start(settings("flowers", data=DATA, run={"steps": 3}), out)
    return out


def hasty_judge(reference: Reference, **more: object) -> Classifier:
    learning = reference.learning
    return train_classifier(ArrayPictures(learning.spec, learning.stored, labels=learning.labels), steps=5)


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """All parts, each as short as it can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval_parts, "LIKELIHOOD", 4)
        patch.setattr(eval_parts, "_JUDGE", TwoSampleNetwork(steps=5, batch=16))
        patch.setattr(evaluate, "open_judge", hasty_judge)
        yield


@pytest.fixture(scope="module")
def first(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationResult, Path, list[str]]:
    """One evaluation, the folder it was written to, and what it said."""
    out, said = tmp_path_factory.mktemp("first"), []
    with quick():
        return measured(run, out, said.append), out, said


class NoPage:
    """Stands in for the page where a test is not about it: its figures take longer than all else."""

    def __init__(self, *parts: object) -> None:
        pass

    def write(self, path: Path) -> None:
        path.write_text("", "utf-8")


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation of a second: no page, no judge to train, few parts."""
    few = [part for part in eval_parts.PARTS if part.name in ("distances", "colours", "cost")]
    monkeypatch.setattr(evaluate, "PARTS", few)
    monkeypatch.setattr(evaluate, "open_judge", lambda *given, **more: None)
    monkeypatch.setattr(page, "evaluation_page", NoPage)


def quiet(line: str) -> None:
    pass


def measured(run: Path, out: Path, say: Callable[[str], None] = quiet, **more: object) -> EvaluationResult:
    return evaluate_run(run, out=out, say=say, settings=EvaluationSettings(**{**FEW, **more}))  # type: ignore[arg-type]


def content(folder: Path) -> dict:
    return json.loads((folder / "eval.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of(flowers.pictures(8, 128), flowers.pictures(8, 64, "held-out"))


class TestSamples:
    def test_they_are_of_the_real_proportions_and_carry_their_origin(self, run: Path, reference: Reference) -> None:
        pipeline = load(run)
        found = draw_samples(pipeline, reference, num=20, seed=3, num_steps=4, guidance_scale=2.0, batch=8)
        assert found.labels is not None
        assert torch.equal(found.labels, reference.proportions(20))
        origin = found.origin
        assert origin["seeds"] == f"{3 << 20} to {(3 << 20) + 19}"
        assert origin["model"] == pipeline.model_hash
        assert origin["sampling"]["num_steps"] == 4
        # Guidance takes the network twice in each of the four steps.
        assert origin["network_calls"] == pytest.approx(8.0)
        assert origin["seconds"] > 0

    def test_they_do_not_depend_on_the_batch_and_two_seeds_share_none(self, run: Path, reference: Reference) -> None:
        pipeline = load(run)
        a, b, other = (
            draw_samples(pipeline, reference, num=6, seed=seed, num_steps=2, batch=batch)
            for seed, batch in ((0, 6), (0, 4), (1, 6))
        )
        assert int((a.stored.int() - b.stored.int()).abs().max()) <= 1
        assert not any(torch.equal(x, y) for x in a.stored for y in other.stored)

    def test_network_calls_are_counted_for_a_second_order_sampler(self, run: Path, reference: Reference) -> None:
        found = draw_samples(load(run), reference, num=4, num_steps=3, sampler="heun")
        # Two in each step, but one in the last, which reaches data.
        assert found.origin["network_calls"] == pytest.approx(5.0)

    def test_the_pace_is_that_of_all_steps(
        self, run: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from kakusan.tasks import eval_samples

        clock = iter(range(1000))
        monkeypatch.setattr(eval_samples.time, "perf_counter", lambda: float(next(clock)))
        # Two readings of the clock around one batch of two steps: (2 - 0) s for 4 samples, and 10 times the steps.
        assert pace_of_sampling(load(run), reference, batch=4, num_steps=20) == pytest.approx(2 / 4 * 10)

    def test_no_samples_are_refused(self, run: Path, reference: Reference) -> None:
        with pytest.raises(ValueError, match="at least one sample"):
            draw_samples(load(run), reference, num=0)


class TestRun:
    def test_everything_is_measured_and_written(self, first: tuple[EvaluationResult, Path, list[str]]) -> None:
        result, out, said = first
        assert result.complete
        names = {record.name for record in result.records}
        assert {"frechet", "recall", "bits per dimension", "mean of red"} <= names
        assert all(record.of.model and record.of.reference for record in result.records)
        assert result.cost["network_calls"] == pytest.approx(3.0)
        assert result.cost["parameters"] > 0
        assert result.cost["flops"] > 0
        assert EvaluationResult.read(out).record() == result.record()
        assert "<svg" in (out / "report.html").read_text("utf-8")
        # The time is said before the work.
        estimate = next(i for i, line in enumerate(said) if "measuring comes on top" in line)
        assert estimate < next(i for i, line in enumerate(said) if line.startswith("measuring"))

    def test_the_same_seeds_give_the_same_file_to_the_bit(
        self,
        run: Path,
        first: tuple[EvaluationResult, Path, list[str]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(page, "evaluation_page", NoPage)
        with quick():
            measured(run, tmp_path)
        again, before = content(tmp_path), content(first[1])
        for found in (again, before):
            found.pop("circumstances")
        assert json.dumps(again) == json.dumps(before)

    @pytest.mark.usefixtures("light")
    def test_another_seed_compares_and_other_pictures_do_not(
        self, run: Path, first: tuple[EvaluationResult, Path, list[str]], tmp_path: Path
    ) -> None:
        other = measured(run, tmp_path, seed=1)
        rows = compare(first[0], other)
        assert rows
        assert not any(row.unlike for row in rows)
        settings = EvaluationSettings(**{**FEW, "num": 16})  # type: ignore[arg-type]
        others = evaluate_run(run, data="flowers:held-out", out=tmp_path, say=quiet, settings=settings)
        moved = compare(first[0], others)
        assert moved
        assert all("reference" in row.unlike for row in moved if row.name == "frechet")

    @pytest.mark.usefixtures("light")
    def test_more_samples_than_half_of_the_real_pictures_are_cut(self, run: Path, tmp_path: Path) -> None:
        said: list[str] = []
        result = measured(run, tmp_path, said.append, num=4000, num_steps=1)
        # Half of 128 training pictures and 64 held out are the pool.
        assert result.find("frechet").n == 64  # type: ignore[union-attr]
        assert any("instead of 4000" in line for line in said)

    @pytest.mark.usefixtures("light")
    def test_stopped_it_keeps_what_it_has(self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(draft: object) -> None:
            raise KeyboardInterrupt

        parts = [eval_parts.PARTS[0], eval_parts.Part("stop", stop), *eval_parts.PARTS[1:]]
        monkeypatch.setattr(evaluate, "PARTS", parts)
        with pytest.raises(KeyboardInterrupt):
            measured(run, tmp_path)
        found = EvaluationResult.read(tmp_path)
        assert not found.complete
        assert {record.name for record in found.records} == {"frechet", "recall"}
        assert (tmp_path / "report.html").is_file()

    @pytest.mark.usefixtures("light")
    def test_a_part_that_cannot_be_measured_is_a_note(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(draft: object) -> None:
            raise ValueError("too few of them")

        monkeypatch.setattr(evaluate, "PARTS", [eval_parts.Part("spells", refuse), eval_parts.PARTS[-1]])
        result = measured(run, tmp_path)
        assert result.complete
        assert "spells left out: too few of them" in result.notes
        assert result.cost

    @pytest.mark.usefixtures("light")
    def test_results_lie_in_the_run(self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        monkeypatch.setattr(evaluate, "PARTS", eval_parts.PARTS[-1:])
        evaluate_run(copy, say=quiet, settings=EvaluationSettings(**FEW))  # type: ignore[arg-type]
        assert (copy / "eval" / "eval.json").is_file()
        # The checkpoint is still what it says it is.
        load(copy)


@pytest.mark.usefixtures("light")
class TestFolders:
    @staticmethod
    def write(folder: Path, size: int, count: int, *, split: str = "held-out", classes: Sequence[str] = ()) -> Path:
        drawn = flowers.pictures(size, count, split)
        for i, picture in enumerate(drawn.spec.to_pil(drawn.spec.to_model(drawn.read(range(count))))):
            place = folder / (drawn.spec.classes[int(drawn.labels[i])] if classes else ".")
            place.mkdir(parents=True, exist_ok=True)
            picture.save(place / f"{i:03d}.png")
        return folder

    def test_pictures_of_any_tool_are_measured(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "made", 8, 40)
        result = evaluate_run(folder, data="digits", say=quiet, settings=EvaluationSettings(**FEW))  # type: ignore[arg-type]
        assert (tmp_path / "made-eval" / "eval.json").is_file()
        assert not result.cost
        assert result.find("bits per dimension") is None
        frechet = result.find("frechet")
        assert frechet is not None
        assert frechet.of.resizer == "none"
        assert frechet.ratio is not None
        assert frechet.ratio > 3

    def test_other_sizes_are_resized_by_name(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "large", 16, 40)
        result = evaluate_run(folder, data="digits", say=quiet, settings=EvaluationSettings(**FEW))  # type: ignore[arg-type]
        frechet = result.find("frechet")
        assert frechet is not None
        assert "Lanczos" in frechet.of.resizer
        assert any("Lanczos" in note for note in result.notes)

    def test_real_pictures_are_as_good_as_real(self, tmp_path: Path) -> None:
        """New flowers beside flowers: no distance may lie far outside of its null."""
        folder = self.write(tmp_path / "new", 8, 64, classes=flowers.SPECIES)
        real = self.write(tmp_path / "real", 8, 300, split="train", classes=flowers.SPECIES)
        result = evaluate_run(
            folder,
            data=str(real),
            say=quiet,
            settings=EvaluationSettings(**{**FEW, "num": 64}),  # type: ignore[arg-type]
        )
        for record in result.records:
            if record.name in ("frechet", "recall"):
                assert record.z is not None
                assert abs(record.z) < 5
                assert math.isfinite(record.stderr)
        assert result.records[0].of.conditions == "the classes of its folders"

    def test_what_is_missing_is_said(self, run: Path, tmp_path: Path) -> None:
        folder = tmp_path / "made"
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "a.png")
        for path, options, match in (
            (tmp_path / "nowhere", {}, "no run, model or folder"),
            (folder, {}, "--data"),
            (folder, {"data": "digits", "weights": "raw"}, "no weights"),
            (run, {"distances": ("frechett",)}, "frechet"),
            (run, {"spaces": ("randm",)}, "random"),
            (run, {"weights": "none"}, "none"),
        ):
            data = options.pop("data", None)
            given = EvaluationSettings(**{**FEW, **options})  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=match):
                evaluate_run(path, data=data, say=quiet, settings=given)
