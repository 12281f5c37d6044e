"""What each axis reads and what it changes; and that the cells of a sweep are what they say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kakusan.guidance import DynamicThresholding, Projected
from kakusan.pipeline import load
from kakusan.samplers import DDIM, Heun
from kakusan.sweeping import AXES, ModelChoice, Setup, Subject, batches, every_cell, read_axes, run, sharing
from kakusan.sweeping.reading import named
from kakusan.sweeping.start import bases, chosen


@pytest.fixture(scope="module")
def subject(trained: Path) -> Subject:
    return Subject(trained, load(trained))


def start(
    subject: Subject, axes: list[str], labels: tuple[str, ...] = ("red",), num: int = 1, **given: Any
) -> list[Setup]:
    found = [axis for axis, _ in named(axes)]
    options, _ = chosen(found, {"num_steps": None, **given})
    assert subject.pipeline.path is not None
    model = ModelChoice(subject.pipeline.path, subject.pipeline.weights)
    return bases(subject, found, options, model=model, labels=labels, num=num)


def changed(subject: Subject, text: str, labels: tuple[str, ...] = ("red",), **given: Any) -> list[Setup]:
    read = read_axes([text], subject)
    return [cell.setup for cell in every_cell(read, start(subject, [text], labels, **given), subject)]


class TestWhatChanges:
    @pytest.mark.parametrize(
        ("text", "field", "expected"),
        [
            ("guidance-scale=-1,2", "guidance_scale", [-1.0, 2.0]),
            ("phi=0,0.7", "rescale", [0.0, 0.7]),
            ("steps=3:9:3", "num_steps", [3, 6, 9]),
            ("sampler=ddim,heun", "sampler", [DDIM(), Heun()]),
            ("eta=0,0.5", "sampler", [DDIM(eta=0.0), DDIM(eta=0.5)]),
            ("seed=4,9", "seeds", [(4,), (9,)]),
            ("label=red,0", "labels", [(1,), (0,)]),
            ("grid=karras,uniform", "grid", ["karras", "uniform"]),
            ("rule=apg", "rule", [Projected()]),
            ("interval-low=0,0.2", "interval", [(0.0, 1.0), (0.2, 1.0)]),
            ("interval-high=0.5", "interval", [(0.0, 0.5)]),
            ("threshold=none,0.9", "thresholding", [None, DynamicThresholding(quantile=0.9)]),
        ],
    )
    def test_of_the_request(self, subject: Subject, text: str, field: str, expected: list[object]) -> None:
        labels = () if text.startswith("label") else ("red",)
        setups = changed(subject, text, labels)
        assert [getattr(setup.request, field) for setup in setups] == expected
        # Nothing else changes.
        assert len({replace(s.request, **{field: getattr(setups[0].request, field)}) for s in setups}) == 1

    def test_of_the_model(self, subject: Subject) -> None:
        steps = changed(subject, "checkpoint=all")
        assert len(steps) >= 2
        assert steps[-1].model.folder == subject.pipeline.path
        assert [s.model.weights for s in changed(subject, "weights=all")] == ["ema-0.1", "ema-0.05", "raw"]
        assert [s.model.ema_width for s in changed(subject, "ema-width=0.05,0.1")] == [0.05, 0.1]

    def test_a_rebuilt_average_is_the_tracked_one_at_its_width(self, subject: Subject) -> None:
        setup = changed(subject, "ema-width=0.1")[0]
        again = setup.model.open(torch.device("cpu")).model.state_dict()
        for name, value in subject.pipeline.model.state_dict().items():
            assert torch.allclose(again[name], value, atol=1e-5), name

    def test_the_reference_is_what_the_model_was_trained_for(self, subject: Subject) -> None:
        def of(text: str) -> object:
            axis, values = read_axes([text], subject)[0]
            return values[axis.reference(values)]

        assert of("guidance-scale=-10:10:41") == 1.0
        assert of("rescale=-1,0.2,3") == 0.2
        assert of("steps=5,80,20") == 80
        assert of("threshold=none,0.9") is None
        assert of("interval-high=0.3,0.9") == 0.9
        assert of("sampler=heun,ddim") == "heun"
        assert of("checkpoint=all") == str(subject.pipeline.path)[-8:].lstrip("0")

    def test_repairs_of_guidance_start_from_guidance(self, subject: Subject) -> None:
        assert {s.request.guidance_scale for s in changed(subject, "rescale=0,1")} == {3.0}
        assert {s.request.guidance_scale for s in changed(subject, "rescale=0,1", guidance_scale=2.0)} == {2.0}
        _, notes = chosen([AXES["rescale"]], {})
        assert "guidance-scale is 3.0" in notes[0]

    def test_without_a_label_the_classes_come_in_turn(self, subject: Subject) -> None:
        setups = start(subject, ["guidance-scale=0,2"], labels=(), num=3)
        assert [setup.request.labels for setup in setups] == [(0,), (1,), (0,)]
        assert [setup.request.seeds for setup in setups] == [(0,), (1,), (2,)]
        # What needs no class is drawn without one, as kakusan sample does.
        assert start(subject, ["steps=3,4"], labels=())[0].request.labels is None


class TestRefused:
    @pytest.mark.parametrize(
        ("texts", "match"),
        [
            ([], "one or two axes"),
            (["steps=1", "seed=1", "eta=0"], "got 3"),
            (["guidance-scale"], "has no values"),
            (["guidance-scale="], "has no values"),
            (["guidence-scale=1,2"], r"no axis 'guidence-scale' \(did you mean 'guidance-scale'\?\)"),
            (["=3"], "no axis ''"),
            (["steps=1,2", "steps=3"], "named twice"),
            (["scale=1,2", "guidance-scale=3"], "named twice"),
            (["weights=raw", "ema-width=0.1"], "both choose the average"),
        ],
    )
    def test_before_a_model_is_opened(self, texts: list[str], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            named(texts)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("guidance-scale=a,b", "'a', which is not a number"),
            ("guidance-scale=1,1", "twice"),
            ("steps=0,5", "value 0; expected at least 1"),
            ("steps=2.5", "whole number"),
            ("threshold=0,0.5", "value 0; expected more than 0 and at most 1"),
            ("interval-low=2", "at most 1"),
            ("eta=-1", "at least 0"),
            ("ema-width=0.4", "at most 0.28"),
            ("sampler=dimm", r"no 'dimm' \(did you mean 'ddim'\?\)"),
            ("label=rot", "no class 'rot'"),
            ("label=7", "out of range"),
            ("weights=ema", "has no 'ema'"),
            ("checkpoint=best", "names no checkpoint"),
            ("checkpoint=77", "checkpoint has no '77'"),
            ("checkpoint=./nowhere", "no run or model at"),
            ("seed=none", "not a whole number"),
        ],
    )
    def test_values_that_the_axis_cannot_have(self, subject: Subject, text: str, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            read_axes([text], subject)

    def test_options_that_an_axis_takes_over(self, subject: Subject) -> None:
        for text, given in (
            ("steps=1,2", {"num_steps": 3}),
            ("seed=1", {"seed": 2}),
            ("scale=1", {"guidance_scale": 2.0}),
        ):
            with pytest.raises(ValueError, match="both choose it"):
                start(subject, [text], **given)
        with pytest.raises(ValueError, match="both choose the classes"):
            start(subject, ["label=all"])

    def test_values_that_do_not_go_together(self, subject: Subject) -> None:
        with pytest.raises(ValueError, match="eta belongs to the sampler ddim"):
            changed(subject, "eta=0,1", sampler="heun")
        texts = ["eta=0,1", "sampler=ddim,heun"]
        with pytest.raises(ValueError, match="eta belongs to the sampler ddim, not to Heun"):
            every_cell(read_axes(texts, subject), start(subject, texts), subject)
        texts = ["interval-low=0,0.6", "interval-high=0.5,1"]
        with pytest.raises(ValueError, match="which is nowhere"):
            every_cell(read_axes(texts, subject), start(subject, texts), subject)
        with pytest.raises(ValueError, match=r"CFG\+\+"):
            changed(subject, "rule=plus-plus")


class TestCells:
    @pytest.mark.parametrize(
        "texts",
        [
            ["guidance-scale=-3:3:4", "rescale=-1,0,2"],
            ["label=all", "seed=2,5"],
            ["steps=2,4", "guidance-scale=1,3"],
            ["sampler=ddpm,heun", "label=all"],
            ["interval-high=0.3,1", "rule=apg,zero-star"],
            ["threshold=none,0.9", "eta=0,1"],
        ],
    )
    def test_every_cell_is_its_own_picture(self, subject: Subject, texts: list[str]) -> None:
        labels = () if texts[0].startswith("label") or texts[1].startswith("label") else ("red",)
        given = {} if any(t.startswith("steps") for t in texts) else {"num_steps": 3}
        cells = every_cell(read_axes(texts, subject), start(subject, texts, labels, num=2, **given), subject)
        found = {}
        for batch in batches(cells, 5):
            assert len(batch.cells) <= 5
            x0, _ = run(sharing(subject.pipeline), batch)
            found.update(zip(batch.cells, x0, strict=True))
        assert set(found) == set(cells)
        for cell in cells:
            alone = subject.pipeline.run(cell.setup.request)[0]
            assert torch.allclose(found[cell], alone, atol=2e-3 * float(alone.abs().max())), cell.values

    def test_what_varies_within_a_batch_shares_one(self, subject: Subject) -> None:
        texts = ["guidance-scale=-3:3:4", "label=all"]
        cells = every_cell(read_axes(texts, subject), start(subject, texts, labels=(), num=3), subject)
        assert len(batches(cells, 100)) == 1
        assert [len(b.cells) for b in batches(cells, 10)] == [8, 8, 8]
        # Those that start from one picture of noise stand together.
        order = [c.setup.request.seeds + (c.setup.request.labels or ()) for c in batches(cells, 100)[0].cells]
        assert order == sorted(order)
        texts = ["steps=2,3", "seed=1,2"]
        cells = every_cell(read_axes(texts, subject), start(subject, texts, labels=()), subject)
        assert [len(b.cells) for b in batches(cells, 100)] == [2, 2]
        with pytest.raises(ValueError, match="--batch 0"):
            batches(cells, 0)

    def test_a_scale_that_all_have_is_one_number(self, subject: Subject) -> None:
        texts = ["seed=1,2"]
        cells = every_cell(read_axes(texts, subject), start(subject, texts), subject)
        assert batches(cells, 9)[0].setup.request.guidance_scale == 1.0

    def test_two_cells_have_one_identity_only_if_they_are_one_picture(self, subject: Subject) -> None:
        a = changed(subject, "guidance-scale=0,1,2", seed=3)
        b = changed(subject, "guidance-scale=2,4", seed=3)
        assert a[2].record() == b[0].record()
        records = [str(setup.record()) for setup in [*a, b[1], *changed(subject, "weights=raw", seed=3)]]
        assert len(set(records)) == len(records)
