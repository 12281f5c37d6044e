"""`kakusan compare`: a contest goes on where it stopped and names what failed; a sweep counts calls and keeps cells."""

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import draw_pictures, settings, start
from torch import Tensor

from kakusan.config import DataSettings, RunSettings
from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec
from kakusan.metrics.contestants import Contestant
from kakusan.metrics.distance import Splits
from kakusan.report.page import Page
from kakusan.tasks import contest_models
from kakusan.tasks.compare import SweepSettings, sweep
from kakusan.tasks.contest import Contest
from kakusan.tasks.contest_models import KINDS, ContestSettings, Diffusion, diffusion_config
from kakusan.tasks.judging import Way
from kakusan.train.sources import open_parts

SPACES = ("patches",)


@pytest.fixture(scope="module", autouse=True)
def _light() -> Any:
    """Judges that are learnt in a moment."""
    from kakusan.metrics import kinds
    from kakusan.tasks import compare, contest

    learn = kinds.learn_kinds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "learn_kinds", lambda known: learn(known, steps=4, batch=8))
        for task in (compare, contest):
            patch.setattr(task, "SPLITS", Splits(count=2, turns=1))
        yield


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are drawn in other tests."""
    from kakusan.report import compare, ladder

    for module, name in ((compare, "contest_page"), (ladder, "sweep_page")):
        monkeypatch.setattr(module, name, lambda *_: Page("none"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("data"), each=48)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    start(settings(folder), out)
    return out


class StubModel:
    """Real pictures of the class that is asked for, with noise."""

    kind = "stub"
    likelihood_kind = "exact"

    def __init__(self, pictures: Pictures, noise: float, seed: int) -> None:
        self.pictures, self.noise, self.seed = pictures, noise, seed
        self.model_hash, self.weights = f"stub-{noise:g}-{seed}", "raw"

    @property
    def data(self) -> DataSpec:
        return self.pictures.spec

    @property
    def classes(self) -> tuple[str, ...]:
        return self.pictures.spec.classes

    def sample_tensor(self, *, seeds: list[int], labels: list[int], **_: Any) -> Tensor:
        assert self.pictures.labels is not None
        generator = torch.Generator().manual_seed(seeds[0] + self.seed)
        rows = []
        for label in labels:
            members = (self.pictures.labels == label).nonzero()[:, 0]
            rows.append(int(members[torch.randint(len(members), (1,), generator=generator)]))
        x = self.data.to_model(self.pictures.read(rows))
        return x + self.noise * torch.randn(x.shape, generator=generator)

    def log_likelihood(self, stored: Tensor, labels: Tensor, **_: Any) -> Tensor:
        return torch.full((len(stored),), 3.0 + self.noise).double()


@dataclass
class StubKind:
    """Counts its trainings; may fail in the ways that models do."""

    noise: float = 0.0
    fails: str = ""
    stops_at: int | None = None
    trained: list[int] = field(default_factory=list)
    pictures: Pictures | None = None

    def check(self) -> None:
        pass

    def train(
        self, settings: ContestSettings, training: Pictures, held_out: Pictures, folder: Path, seed: int
    ) -> dict[str, Any]:
        if self.stops_at == seed:
            raise KeyboardInterrupt
        self.trained.append(seed)
        self.pictures = training
        facts = {"steps": 1, "samples": 32, "seconds": 1.0, "parameters": 1000, "rollbacks": 0}
        lost = self.fails == "diverges"
        return {**facts, "saved": not lost, "diverged": lost, "message": "loss is NaN" if lost else ""}

    def open(self, folder: Path, device: torch.device) -> Any:
        assert self.pictures is not None
        noise = float("nan") if self.fails == "draws NaN" else self.noise
        return StubModel(self.pictures, noise, int(folder.name[-1]))

    def ways(self, name: str, settings: ContestSettings) -> list[Way]:
        return [Way(name, name, name.partition("-")[0])]

    def drawing(self, settings: ContestSettings, training: Pictures) -> float:
        return 0.001


def contest(folder: Path, out: Path, kinds: dict[str, StubKind], *, seeds: int = 2) -> tuple[Contest, list[str]]:
    lines: list[str] = []
    asked = ContestSettings(
        data=str(folder), seconds=1.0, models=tuple(kinds), seeds=seeds, num=16, spaces=SPACES, threads=1, device="cpu"
    )
    return Contest(asked, out, lines.append, kinds), lines


class TestContest:
    @pytest.mark.usefixtures("no_page")
    def test_what_is_done_is_not_done_again(self, folder: Path, tmp_path: Path) -> None:
        out, kinds = tmp_path / "out", {"vae": StubKind(0.3), "gan": StubKind()}
        one, lines = contest(folder, out, kinds, seeds=1)
        first = one.run()
        assert any("in all about" in line for line in lines)
        assert [c.kind for c in first] == ["vae", "gan"]
        again, _ = contest(folder, out, kinds)
        second = again.run()
        assert kinds["vae"].trained == kinds["gan"].trained == [0, 1]
        assert json.dumps([c.record() for c in second[:2]]) == json.dumps([c.record() for c in first])

    def test_every_figure_is_written(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        one, _ = contest(folder, out, {"vae": StubKind(0.3), "gan": StubKind()})
        one.run()
        written = json.loads((out / "compare.json").read_text("utf-8"))
        assert written["facts"]["done"] == written["facts"]["of"] == 4
        found = [Contestant.from_record(values) for values in written["contestants"]]
        entry = found[0].entry
        assert entry is not None
        names = {record.name for record in entry.records}
        assert {
            "frechet",
            "kernel",
            "recall",
            "coverage",
            "high-frequency power",
            "kinds covered",
            "seconds per picture",
            "bits per dimension",
        } <= names
        assert len({r.n for r in entry.records if r.name == "frechet"} | {16}) == 1
        # Noise is grain: more power where it is high.
        sharp = [c.entry.find("high-frequency power") for c in found if c.entry is not None]
        assert sharp[0] is not None
        assert sharp[1] is not None
        assert sharp[0].value > sharp[1].value
        assert written["sentence"].startswith("Diffusion is sharper than a VAE (")
        page = (out / "compare.html").read_text("utf-8")
        assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")

    @pytest.mark.usefixtures("no_page")
    def test_stopped_it_writes_what_it_has_and_goes_on(self, folder: Path, tmp_path: Path) -> None:
        out, kinds = tmp_path / "out", {"vae": StubKind(), "gan": StubKind(stops_at=0)}
        one, lines = contest(folder, out, kinds)
        with pytest.raises(KeyboardInterrupt):
            one.run()
        assert "1 of 4 models" in lines[-1]
        assert "goes on" in lines[-1]
        assert json.loads((out / "compare.json").read_text("utf-8"))["facts"]["done"] == 1
        kinds["gan"].stops_at = None
        contest(folder, out, kinds)[0].run()
        assert kinds["vae"].trained == [0, 1]
        assert kinds["gan"].trained == [0, 1]

    @pytest.mark.parametrize("fails", ["diverges", "draws NaN"])
    def test_a_training_that_fails_is_named_and_ends_nothing(self, folder: Path, tmp_path: Path, fails: str) -> None:
        one, lines = contest(folder, tmp_path / "out", {"gan": StubKind(fails=fails), "vae": StubKind()}, seeds=1)
        lost, fine = one.run()
        assert lost.diverged
        assert lost.entry is None
        assert lost.trouble
        assert not fine.diverged
        assert any("gan-1s-seed-0" in line for line in lines)
        assert "Diverged: GAN 0." in (tmp_path / "out" / "compare.html").read_text("utf-8")

    @pytest.mark.usefixtures("no_page")
    def test_a_folder_of_something_else_is_refused(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "note.txt").write_text("mine")
        with pytest.raises(ValueError, match="not a comparison"):
            contest(folder, tmp_path, {"vae": StubKind()})[0].run()
        out = tmp_path / "out"
        contest(folder, out, {"vae": StubKind()}, seeds=1)[0].run()
        other = draw_pictures(tmp_path / "other", each=48, seed=3)
        with pytest.raises(ValueError, match="other data"):
            contest(other, out, {"vae": StubKind()})[0].run()


def test_diffusion_is_not_trained_twice(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest_models, "diffusion_config", lambda *_: settings(folder))
    # A second each time it is asked, however busy the machine is.
    clock = itertools.count()
    monkeypatch.setattr("kakusan.train.run.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    asked = ContestSettings(str(folder), 1.0)
    training, held_out = open_parts(asked.parts, seed=0)
    facts = Diffusion().train(asked, training, held_out, tmp_path / "run", 0)
    assert (facts["steps"], facts["saved"], facts["diverged"]) == (6, True, False)
    model = Diffusion().open(tmp_path / "run", torch.device("cpu"))
    assert model.classes == training.spec.classes
    again = Diffusion().train(asked, training, held_out, tmp_path / "run", 0)
    # What was spent the first time, and an opening.
    assert 0.75 * facts["seconds"] < again["seconds"] < facts["seconds"] + 3
    assert Diffusion().open(tmp_path / "run", torch.device("cpu")).model_hash == model.model_hash


@pytest.mark.parametrize(("elapsed", "steps"), [(10.0, 100 + int(0.97 * 80.0 * 100 / 10.0)), (90.0, 100), (95.0, 100)])
def test_the_plan_follows_the_clock(elapsed: float, steps: int) -> None:
    run = SimpleNamespace(
        trainer=SimpleNamespace(step=100, steps=200),
        config=SimpleNamespace(run=RunSettings(minutes=1.5)),
        elapsed=lambda: elapsed,
    )
    contest_models._keep_time(SimpleNamespace(step=100), run)  # type: ignore[arg-type]
    assert run.trainer.steps == steps
    # Between its turns the plan stays, so that the rate falls smoothly.
    run.trainer = SimpleNamespace(step=101, steps=200)
    contest_models._keep_time(SimpleNamespace(step=101), run)  # type: ignore[arg-type]
    assert run.trainer.steps == 200


class TestSettings:
    @pytest.mark.parametrize(
        "wrong", [{"models": ("difusion",)}, {"models": ()}, {"seeds": 0}, {"seconds": 0.0}, {"num": 1}, {"steps": 0}]
    )
    def test_what_cannot_be_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError):
            ContestSettings(**{"data": "flowers", "seconds": 1.0, **wrong})

    def test_kinds_are_diffusion_and_all_rivals(self) -> None:
        assert list(KINDS) == ["diffusion", "vae", "gan", "flow"]

    @pytest.mark.parametrize(("size", "patch"), [(8, 1), (28, 1), (32, 2), (64, 4), (128, 8), (66, 2)])
    def test_the_recipe_grows_with_the_pictures(self, size: int, patch: int) -> None:
        config = diffusion_config(ContestSettings("flowers", 90.0), (size, size), 3)
        assert config.model.patch == patch
        assert size % patch == 0
        assert config.run.minutes == 1.5
        assert config.run.seed == 3

    def test_every_seed_holds_out_the_same_pictures(self, folder: Path) -> None:
        parts = ContestSettings(str(folder), 1.0).parts
        same = [open_parts(parts, seed=seed)[1].fingerprint for seed in (0, 1)]
        assert same[0] == same[1]
        moved = [open_parts(DataSettings(source=str(folder)), seed=seed)[1].fingerprint for seed in (0, 1)]
        assert moved[0] != moved[1]

    def test_diffusion_is_measured_at_fewer_steps_as_well(self) -> None:
        ways = Diffusion().ways("diffusion-1s-seed-0", ContestSettings("flowers", 1.0, steps=8, rungs=(2, 4, 8, 20)))
        assert [(w.num_steps, w.quick) for w in ways] == [(2, True), (4, True), (8, False)]


class TestSweep:
    def asked(self, *runs: Path, **more: Any) -> SweepSettings:
        given = {"samplers": ("ddim", "heun"), "steps": (2, 3), "guidance_scales": (1.0, 2.0), "num": 16}
        return SweepSettings(**{"runs": runs, "spaces": SPACES, "threads": 1, "device": "cpu", **given, **more})

    def test_calls_are_counted_and_cells_kept(self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from kakusan.tasks import judging

        lines: list[str] = []
        first = sweep(self.asked(run), tmp_path / "out", say=lines.append)
        calls = {(e.sampler, e.num_steps, e.guidance_scale): e.network_calls for e in first}
        # The last step of Heun's method needs one evaluation only; guidance is a second pass of each.
        assert calls == {
            ("ddim", 2, 1.0): 2,
            ("heun", 2, 1.0): 3,
            ("ddim", 2, 2.0): 4,
            ("heun", 2, 2.0): 6,
            ("ddim", 3, 1.0): 3,
            ("heun", 3, 1.0): 5,
            ("ddim", 3, 2.0): 6,
            ("heun", 3, 2.0): 10,
        }
        assert any("8 ways to draw 16 samples" in line and "in all about" in line for line in lines)
        page = (tmp_path / "out" / "compare.html").read_text("utf-8")
        assert "two in a step" in page
        monkeypatch.setattr(judging, "draw_samples", None)
        again = sweep(self.asked(run), tmp_path / "out", say=lines.append)
        assert [e.record() for e in again] == [e.record() for e in first]
        written = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))
        assert len(written["ladder"]["patches"]) == 8
        assert sum(row["behind_by"] == 0 for row in written["ladder"]["patches"]) == 1

    def test_stopped_it_keeps_what_is_measured(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from kakusan.tasks import judging

        draw, drawn = judging.draw_samples, []

        def some(*arguments: Any, **options: Any) -> Any:
            if len(drawn) == 1:
                raise KeyboardInterrupt
            drawn.append(1)
            return draw(*arguments, **options)

        monkeypatch.setattr(judging, "draw_samples", some)
        lines: list[str] = []
        asked = self.asked(run, samplers=("ddim",), guidance_scales=(1.0,))
        with pytest.raises(KeyboardInterrupt):
            sweep(asked, tmp_path / "out", say=lines.append)
        assert any("1 of 2 are measured" in line for line in lines)
        assert "Not finished: 1 of 2" in (tmp_path / "out" / "compare.html").read_text("utf-8")

    @pytest.mark.usefixtures("no_page")
    def test_other_settings_are_measured_anew(self, run: Path, tmp_path: Path) -> None:
        one = self.asked(run, samplers=("ddim",), steps=(2,), guidance_scales=(1.0,))
        first = sweep(one, tmp_path / "out", say=lambda line: None)[0]
        other = sweep(
            self.asked(run, samplers=("ddim",), steps=(2,), guidance_scales=(1.0,), seed=1),
            tmp_path / "out",
            say=lambda line: None,
        )[0]
        assert first.records[0].of.seeds != other.records[0].of.seeds
        with pytest.raises(ValueError, match="seeds"):
            first.records[0].difference(other.records[0], across=("model", "weights", "sampling"))

    @pytest.mark.usefixtures("no_page")
    def test_two_runs_and_a_name_for_each(self, run: Path, folder: Path, tmp_path: Path) -> None:
        other = tmp_path / "elsewhere" / "small"
        start(settings(folder, run={"seed": 1}), other)
        asked = self.asked(run, other, samplers=("ddim",), steps=(2,), guidance_scales=(1.0,))
        found = sweep(asked, tmp_path / "out", say=lambda line: None)
        assert [e.run for e in found] == ["small", str(other)]
        assert found[0].records[0].of.model != found[1].records[0].of.model

    def test_what_cannot_be_compared_is_refused(self, run: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no sampler 'dim'.*ddim"):
            self.asked(run, samplers=("dim",))
        with pytest.raises(ValueError, match="at least one run"):
            self.asked()
        with pytest.raises(ValueError, match="there is no run"):
            sweep(self.asked(tmp_path / "nothing"), tmp_path / "out", say=lambda line: None)
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "note.txt").write_text("mine")
        with pytest.raises(ValueError, match="not a comparison"):
            sweep(self.asked(run), tmp_path / "full", say=lambda line: None)
