"""Averages rebuilt after training: nearly those tracked beside a run, from stored ones that are whole and its own."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from small_runs import settings, start
from torch import nn

from kakusan import pipeline
from kakusan.model_folder import CorruptModel
from kakusan.run_folder import RunFolder, read_state
from kakusan.tasks.ema import rebuild_averages
from kakusan.train.ema import Ema, EmaProfile
from kakusan.train.posthoc import Snapshots, Window, combine, inner_products, rebuild
from kakusan.train.run import TrainingRun

Averages = dict[float, dict[str, torch.Tensor]]
WIDTHS = (0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.16, 0.2)
BAR = 0.01


def share(profile: EmaProfile, updates: int, total: int) -> torch.Tensor:
    """The weight of every update in a tracked average: from `EmaProfile.keep` alone."""
    keep = torch.tensor([profile.keep(n) for n in range(1, updates + 1)], dtype=torch.float64)
    later = torch.cat([keep.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.float64)])
    return torch.cat([(1.0 - keep) * later, torch.zeros(total - updates, dtype=torch.float64)])


def known_windows(updates: int, places: int, widths: tuple[float, ...] = (0.05, 0.1)) -> list[Window]:
    times = [updates * (k + 1) // places for k in range(places)]
    return [Window(EmaProfile(width), time) for time in times for width in widths]


class TestAlgebra:
    def test_inner_products_are_those_of_the_windows_by_summation(self) -> None:
        total = 4000
        windows = [Window(EmaProfile(w), n) for w, n in ((0.05, 4000), (0.1, 4000), (0.2, 2500), (0.1, 1000))]
        # Shares of single updates: the windows, integrated over one update each.
        tracked = torch.stack([share(w.profile, w.updates, total) for w in windows])
        # The sum takes each window as flat within an update: an error of second order in (exponent / updates).
        torch.testing.assert_close(inner_products(windows, windows), tracked @ tracked.T, rtol=2e-4, atol=1e-9)

    def test_powers_do_not_overflow(self) -> None:
        windows = [Window(EmaProfile(0.005), 10**9), Window(EmaProfile(0.27), 3)]
        assert bool(inner_products(windows, windows).isfinite().all())

    @pytest.mark.parametrize("width", WIDTHS)
    def test_coefficients_sum_to_one(self, width: float) -> None:
        combination = combine(known_windows(5000, 10), Window(EmaProfile(width), 5000))
        assert math.fsum(combination.coefficients) == pytest.approx(1.0, abs=1e-12)

    def test_a_known_window_is_found_exactly(self) -> None:
        known = known_windows(5000, 10)
        for place in (0, 7, 19):
            wanted = Window(known[place].profile, 5000)
            found = combine([*known, wanted], wanted)
            assert found.residual < 1e-6
            assert found.coefficients[-1] + sum(
                c for c, w in zip(found.coefficients, known, strict=False) if w == wanted
            ) == pytest.approx(1.0, abs=1e-6)

    def test_the_same_window_twice_does_no_harm(self) -> None:
        once, wanted = known_windows(1000, 6), Window(EmaProfile(0.07), 1000)
        assert combine([*once, *once], wanted).residual == pytest.approx(combine(once, wanted).residual, abs=1e-9)

    def test_no_other_coefficients_with_that_sum_come_nearer(self) -> None:
        known, wanted = known_windows(3000, 5), Window(EmaProfile(0.03), 3000)
        products, right = inner_products(known, known), inner_products(known, [wanted])[:, 0]
        best = torch.tensor(combine(known, wanted).coefficients, dtype=torch.float64)

        def distance(c: torch.Tensor) -> float:
            return float(c @ products @ c - 2.0 * c @ right)

        generator = torch.Generator().manual_seed(0)
        for size in (1e-1, 1e-3):
            for _ in range(20):
                move = torch.randn(len(known), generator=generator, dtype=torch.float64) * size
                assert distance(best + move - move.mean()) > distance(best)

    def test_more_places_come_nearer(self) -> None:
        wanted = Window(EmaProfile(0.03), 6000)
        residuals = [combine(known_windows(6000, places), wanted).residual for places in (2, 4, 8, 16, 32)]
        assert residuals == sorted(residuals, reverse=True)
        assert residuals[-1] < 0.02

    def test_what_cannot_be_combined_is_refused(self) -> None:
        profile = EmaProfile(0.1)
        for known, wanted, match in [
            ([], Window(profile, 5), "no stored average"),
            ([Window(profile, 6)], Window(profile, 5), "after the 5th"),
            ([Window(profile, 0)], Window(profile, 5), "no update"),
        ]:
            with pytest.raises(ValueError, match=match):
                combine(known, wanted)


def test_constant_weights_are_rebuilt_exactly_and_synthetic_histories_nearly(tmp_path: Path) -> None:
    total = 500
    generator = torch.Generator().manual_seed(0)
    time = torch.linspace(0, 1, total, dtype=torch.float64)[:, None]

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    begin = randn(64)
    histories = {
        "constant": begin.expand(total, 64),
        "drift": begin + 2.0 * torch.exp(-4.0 * time) * randn(64),
        "walk": begin + 0.5 * randn(total, 64).cumsum(0) / total**0.5,
        "noise": begin + 0.3 * randn(total, 64),
    }
    together = torch.stack(list(histories.values()), dim=1)
    module = nn.Linear(64, 4, bias=False, dtype=torch.float64)
    ema = Ema(module, {f"{w:g}": EmaProfile(w) for w in (0.05, 0.1)})
    exact = Ema(module, {f"{w:g}": EmaProfile(w) for w in WIDTHS})
    snapshots = Snapshots(tmp_path)
    for step, value in enumerate(together, start=1):
        module.weight.data.copy_(value)
        ema.update()
        exact.update()
        if step % 50 == 0:
            snapshots.take(ema, step, {})
    for width, result in zip(WIDTHS, rebuild(snapshots, WIDTHS, updates=total, averages=ema.averages), strict=True):
        tracked = exact.averages[f"{width:g}"]["weight"]
        errors = (result.tensors["weight"] - tracked).norm(dim=1) / tracked.norm(dim=1)
        for name, error in zip(histories, errors.tolist(), strict=True):
            # What stands still is exact but for the half precision of what was stored.
            assert error < (1e-3 if name == "constant" else BAR), (name, width)
        assert result.places == 10


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Averages]:
    """A tiny run that tracks two profiles, and the averages of many tracked beside it."""
    out = tmp_path_factory.mktemp("posthoc") / "run"
    truth: dict[str, Ema] = {}

    def prepare(run: TrainingRun) -> None:
        truth["ema"] = Ema(run.model, {f"{w:g}": EmaProfile(w) for w in WIDTHS})
        update = run.trainer.ema.update

        def both() -> None:
            update()
            truth["ema"].update()

        run.trainer.ema.update = both  # type: ignore[method-assign]

    config = settings(pictures, model={"multipliers": (1,)}, run={"steps": 100, "batch": 2, "snapshots": 10})
    start(config, out, prepare=prepare)
    return out, {width: truth["ema"].averages[f"{width:g}"] for width in WIDTHS}


def test_every_width_is_rebuilt_within_one_percent_of_one_that_was_tracked(trained, tmp_path: Path) -> None:
    run, tracked = trained
    names = [f"w{width:g}" for width in WIDTHS]
    text = "\n".join(rebuild_averages(run, WIDTHS, out=tmp_path / "model", names=names))
    raw = pipeline.load(tmp_path / "model", weights="raw").model.state_dict()
    for name, width in zip(names, WIDTHS, strict=True):
        assert f"{name}: width {width:g} after 100 updates, from averages stored at 10 times" in text
        loaded = pipeline.load(tmp_path / "model", weights=name).model.state_dict()
        a = torch.cat([loaded[n].flatten().double() for n in tracked[width]])
        b = torch.cat([value.flatten().double() for value in tracked[width].values()])
        live = torch.cat([raw[n].flatten().double() for n in tracked[width]])
        assert float((a - b).norm() / b.norm()) < BAR, width
        # The bar means something: the last weights are further away.
        assert float((a - b).norm()) < 0.5 * float((live - b).norm()), width


def test_the_folder_is_a_model_of_its_own(trained, tmp_path: Path) -> None:
    run, _ = trained
    *_, last = rebuild_averages(run, [0.05, 0.2])
    folder = run / "ema" / "step-00000100-ema-0.05-ema-0.2"
    assert str(folder) in last
    loaded = pipeline.load(folder)
    assert loaded.weights == "ema-0.05"
    assert bool(loaded.sample_tensor(num=1, num_steps=2).isfinite().all())
    assert set(loaded.facts.training["rebuilt"]["widths"]) == {"ema-0.05", "ema-0.2"}
    # A profile that was tracked is found again at once: it is in the checkpoint.
    tracked = pipeline.load(run, weights="ema-0.05").model.state_dict()
    assert all(
        torch.allclose(value, tracked[name], rtol=1e-4, atol=1e-5) for name, value in loaded.model.state_dict().items()
    )
    assert loaded.facts.training["rebuilt"]["from"] == pipeline.load(run).model_hash
    with pytest.raises(ValueError, match="nothing is overwritten"):
        list(rebuild_averages(run, [0.05, 0.2]))


@pytest.mark.parametrize(
    ("widths", "names", "match"),
    [
        ((), (), "at least one width"),
        ((0.3,), (), "between 0 and 0.28"),
        ((0.0,), (), "between 0 and 0.28"),
        ((0.1, 0.2), ("one",), "one name of its own"),
        ((0.1, 0.1), (), "one name of its own"),
        ((0.1,), ("raw",), "cannot be called 'raw'"),
        ((0.1,), ("a/b",), "cannot be called"),
    ],
)
def test_mistakes_are_named(trained, tmp_path: Path, widths, names, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        list(rebuild_averages(trained[0], widths, names=names, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_is_not_a_run_with_snapshots_is_refused(trained, pictures: Path, tmp_path: Path) -> None:
    def refused(run: Path, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            list(rebuild_averages(run, [0.05], out=tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        assert not [p for p in tmp_path.iterdir() if ".part" in p.name]

    refused(pictures, "is not a run of kakusan's")
    refused(tmp_path / "nothing", "is not a run of kakusan's")
    start(settings(pictures, run={"steps": 1, "snapshots": 0}), tmp_path / "without")
    refused(tmp_path / "without", "trained with --snapshots 0")

    copy = tmp_path / "copy"
    shutil.copytree(trained[0], copy)
    index = copy / "snapshots" / "snapshots.json"
    whole = index.read_text()
    file = sorted(copy.glob("snapshots/update-*"))[3]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(copy, f"{file.name} is damaged.*take its entry out of")
    file.unlink()
    refused(copy, f"{file.name} is missing.*take its entry out of")
    entries = json.loads(whole)
    entries["snapshots"] = [entry for entry in entries["snapshots"] if entry["file"] != file.name]
    index.write_text(json.dumps(entries))
    assert "stored at 9 times" in next(rebuild_averages(copy, [0.05], out=tmp_path / "fewer"))
    for text, match in [
        (whole[:40], "is damaged"),
        (whole.replace('"format": 1', '"format": 9'), "has format 9"),
        (whole.replace('"seed": 0', '"seed": 5'), r"another run \(run.seed was 5, now 0\)"),
        (whole.replace('"file": "update', '"file": "../update'), "outside its folder"),
        ("[]", "is damaged"),
    ]:
        index.write_text(text)
        refused(copy, match)


def stored(out: Path) -> dict[int, dict[str, torch.Tensor]]:
    snapshots = Snapshots(out)
    return {s.updates: snapshots.tensors(s) for s in snapshots.read().snapshots}


class TestResuming:
    def test_a_run_in_two_halves_stores_the_same_averages(self, pictures: Path, tmp_path: Path) -> None:
        config = settings(pictures, run={"steps": 6, "snapshots": 6})
        said: list[str] = []
        start(config, tmp_path / "whole", say=said.append)
        (told,) = (line for line in said if "kakusan ema" in line)
        # What is said beforehand is what the files take, but for their headers.
        size = float(told.split(": ")[1].split(" MB")[0]) * 1e6
        assert 1.0 < Snapshots(tmp_path / "whole").bytes() / size < 1.5
        start(config, tmp_path / "halves", stop_at=3)
        start(config, tmp_path / "halves")
        a, b = stored(tmp_path / "whole"), stored(tmp_path / "halves")
        assert list(a) == list(b) == [1, 2, 3, 4, 5, 6]
        assert all(torch.equal(a[n][name], b[n][name]) for n in a for name in a[n])
        assert {t.dtype for t in a[6].values()} == {torch.float16}

    def test_sent_back_a_run_drops_what_came_later(self, pictures: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        config = settings(pictures, run={"steps": 6, "snapshots": 6, "checkpoints": 6, "spaced": 6})
        start(config, out)
        before = stored(out)
        (out / "latest").write_text("step-00000002\n")
        # What a process killed while writing leaves, and a file that the index never came to name.
        (out / "snapshots" / ".0123.part.safetensors").write_bytes(b"half")
        shutil.copy(
            out / "snapshots" / "update-00000001.safetensors", out / "snapshots" / "update-00000099.safetensors"
        )
        start(config, out, stop_at=3)
        assert list(stored(out)) == [1, 2, 3]
        assert sorted(p.name for p in (out / "snapshots").iterdir()) == [
            "snapshots.json",
            *(f"update-{n:08d}.safetensors" for n in (1, 2, 3)),
        ]
        start(config, out)
        after = stored(out)
        assert all(torch.equal(before[n][name], after[n][name]) for n in before for name in before[n])

    def test_looking_at_a_run_changes_nothing(self, pictures: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        config = settings(pictures, run={"steps": 4, "snapshots": 4, "checkpoints": 4, "spaced": 4})
        start(config, out)
        (out / "latest").write_text("step-00000002\n")
        TrainingRun(config, out, say=lambda line: None)
        assert list(stored(out)) == [1, 2, 3, 4]
        # Averages of what came after the checkpoint are not used for it.
        text = next(rebuild_averages(out, [0.1], out=tmp_path / "model"))
        assert "after 2 updates, from averages stored at 2 times" in text

    def test_a_rolled_back_run_drops_what_it_gave_up(self, pictures: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"

        def prepare(run: TrainingRun) -> None:
            take, calls = run.trainer.ema.update, []

            def spoil() -> None:
                take()
                calls.append(None)
                if len(calls) == 4:
                    with torch.no_grad():
                        next(run.model.parameters()).fill_(float("nan"))

            run.trainer.ema.update = spoil  # type: ignore[method-assign]

        run = start(settings(pictures, run={"steps": 8, "snapshots": 8}), out, prepare=prepare)
        assert run.trainer.rollbacks == 1
        found = Snapshots(out).read().snapshots
        assert [s.updates for s in found] == sorted({s.updates for s in found})
        assert found[-1].updates == run.trainer.ema.updates
        assert all(bool(t.isfinite().all()) for part in stored(out).values() for t in part.values())

    def test_snapshots_may_be_turned_on_later_and_hold_large_values(self, pictures: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        start(settings(pictures, run={"steps": 2, "snapshots": 0}), out)
        assert not (out / "snapshots").exists()
        run = start(settings(pictures, run={"steps": 4, "snapshots": 4}), out)
        assert list(stored(out)) == [3, 4]
        run.trainer.ema.averages["ema-0.1"] = {
            name: value + 1e6 for name, value in run.trainer.ema.averages["ema-0.1"].items()
        }
        run.trainer.ema.updates += 1
        assert run.snapshots.take(run.trainer.ema, 5, {}) is not None
        assert run.snapshots.take(run.trainer.ema, 5, {}) is None
        kinds = {name.split("/")[0]: t.dtype for name, t in stored(out)[5].items()}
        assert kinds == {"ema-0.1": torch.float32, "ema-0.05": torch.float16}
        assert run.snapshots.bytes() == sum(p.stat().st_size for p in (out / "snapshots").glob("update-*"))

    def test_a_full_disk_is_said_and_nothing_is_lost(
        self, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "run"
        config = settings(pictures, run={"steps": 4, "snapshots": 2})

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("kakusan.train.posthoc.whole_file", full)
        with pytest.raises(ValueError, match=r"averages of step 2 could not be stored.*No space left.*--snapshots 0"):
            start(config, out)
        assert RunFolder(out).latest() == RunFolder(out).checkpoint(2)
        assert read_state(RunFolder(out).checkpoint(2))[3]["trainer"]["step"] == 2
        monkeypatch.undo()
        start(config, out)
        assert list(stored(out)) == [4]


def test_averages_of_different_models_are_not_mixed(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    for updates, module in ((3, nn.Linear(2, 2)), (4, nn.Linear(3, 2)), (5, nn.Linear(2, 2, bias=False))):
        ema = Ema(module, {"a": EmaProfile(0.1)})
        ema.updates = updates
        snapshots.take(ema, updates, {})
    for updates in (4, 5):
        with pytest.raises(CorruptModel, match="different models"):
            rebuild(snapshots, [0.1], updates=updates)
    with pytest.raises(ValueError, match="no stored average of the first 2 updates"):
        rebuild(snapshots, [0.1], updates=2)
