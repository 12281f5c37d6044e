"""What a user holds: requests that are checked, samples that stand alone, conditions that matter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.building import build_model
from kakusan.choices import build_objective
from kakusan.config import ModelSettings, ObjectiveSettings
from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.model_folder import ModelFacts
from kakusan.pipeline import Pipeline
from kakusan.request import SampleRequest
from kakusan.samplers import DDIM, DDPM, SAMPLERS
from kakusan.train.ema import EmaProfile
from kakusan.train.feed import Feed
from kakusan.train.optim import OptimSettings
from kakusan.train.trainer import DiffusionLoss, Group, Trainer

CLASSES = ("074_rose", "tulip", "lily")


def pipeline(classes: tuple[str, ...] = CLASSES, size: tuple[int, int] = (8, 8), **settings: Any) -> Pipeline:
    """A tiny model whose fresh weights are shaken, so that every input matters."""
    torch.manual_seed(3)
    data = DataSpec(channels=1, size=size, mean=(0.1,), std=(0.5,), mode="L", classes=classes)
    model = build_model(ModelSettings(width=8, depth=1, multipliers=(1, 2), **settings), data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Pipeline(model, ModelFacts(data, build_objective(ObjectiveSettings(), data)), weights="raw")


@pytest.fixture(scope="module")
def rose() -> Pipeline:
    return pipeline()


def test_pictures_and_tensors_are_the_same_samples(rose: Pipeline) -> None:
    images = rose.sample(labels=["rose", "lily"], seed=4, guidance_scale=2.0, num_steps=3)
    x0 = rose.sample_tensor(labels=[0, 2], seed=4, guidance_scale=2.0, num_steps=3)
    assert [image.size for image in images] == [(8, 8)] * 2
    assert [image.tobytes() for image in images] == [image.tobytes() for image in rose.data.to_pil(x0)]


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_picture_alone_is_the_picture_in_any_batch(rose: Pipeline, sampler: str) -> None:
    labels = ["rose", "tulip", "lily", "rose", "lily"]
    # An adaptive solver turns rounding into other step sizes: it agrees within its own tolerance, not within rounding.
    adaptive = sampler == "adaptive"
    atol = 3e-2 if adaptive else 1e-4
    common = dict(sampler=sampler, num_steps=2 if adaptive else 4, guidance_scale=2.0)
    together = rose.sample_tensor(labels=labels[-2:] if adaptive else labels, seed=10, **common)
    for k in (1,) if adaptive else (0, 3, 4):
        alone = rose.sample_tensor(labels=[labels[-1] if adaptive else labels[k]], seed=10 + k, **common)
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=atol)
    if not adaptive:
        cut = rose.sample_tensor(labels=labels, seed=10, batch=2, **common)
        torch.testing.assert_close(cut, together, rtol=0, atol=atol)
        shuffled = rose.sample_tensor(labels=[labels[3], labels[1]], seeds=[13, 11], **common)
        torch.testing.assert_close(shuffled, together[[3, 1]], rtol=0, atol=atol)


def test_the_same_request_gives_the_same_bits(rose: Pipeline) -> None:
    request = rose.request(labels=["rose"] * 3, seed=1, sampler=DDPM(), num_steps=4)
    assert torch.equal(rose.run(request), rose.run(request))


def test_the_seed_the_label_and_the_scale_matter(rose: Pipeline) -> None:
    base = dict(labels=["rose"], seed=1, num_steps=4)
    plain = rose.sample_tensor(**base)
    for change in (
        {"seed": 2},
        {"labels": ["lily"]},
        {"guidance_scale": 3.0},
        {"guidance_scale": 0.0},
        {"num_steps": 5},
    ):
        assert float((rose.sample_tensor(**{**base, **change}) - plain).abs().max()) > 1e-3
    assert torch.equal(rose.sample_tensor(**base, guidance_scale=1.0), plain)
    free = rose.sample_tensor(num=1, seed=1, num_steps=4)
    torch.testing.assert_close(rose.sample_tensor(**base, guidance_scale=0.0), free, rtol=0, atol=1e-5)


def test_a_model_trained_a_little_follows_its_condition() -> None:
    """Law 8 on a model that was trained: dark and bright pictures, asked for by name."""
    stored = torch.cat([torch.full((8, 1, 8, 8), 40), torch.full((8, 1, 8, 8), 215)]).to(torch.uint8)
    stored[:, :, ::2, ::2] += torch.arange(16, dtype=torch.uint8).view(-1, 1, 1, 1)
    data = DataSpec.measure(stored, classes=("dark", "bright"))
    pictures = ArrayPictures(data, stored, labels=[0] * 8 + [1] * 8)
    torch.manual_seed(0)
    model = build_model(ModelSettings(width=8, depth=1, multipliers=(1,), condition_dropout=0.2), data)
    objective = build_objective(ObjectiveSettings(), data)
    group = Group(list(model.parameters()), DiffusionLoss(model, objective, seed=0), OptimSettings(rate=1e-2, warmup=5))
    trainer = Trainer(model, [group], Feed(pictures, seed=0, batch=16), steps=80, profiles={"ema": EmaProfile(0.1)})
    for _ in trainer.run():
        pass
    trained = Pipeline(model, ModelFacts(data, objective), weights="raw")
    x0 = trained.sample_tensor(labels=["dark"] * 3 + ["bright"] * 3, guidance_scale=1.5, num_steps=8)
    brightness = x0.mean((1, 2, 3))
    assert float(brightness[:3].max()) < float(brightness[3:].min())


def test_guidance_without_condition_dropout_is_refused_with_the_reason() -> None:
    strict = pipeline(condition_dropout=0.0)
    assert strict.sample_tensor(labels=["rose"], num_steps=2).shape == (1, 1, 8, 8)
    for arguments in (
        {"labels": ["rose"], "guidance_scale": 2.0},
        {"labels": ["rose"], "guidance_scale": 0.0},
        {"num": 1},
    ):
        with pytest.raises(ValueError, match="trained without condition dropout.*train with condition dropout > 0"):
            strict.sample_tensor(**arguments, num_steps=2)


def test_a_model_without_classes_takes_no_labels() -> None:
    free = pipeline(classes=())
    assert free.classes == ()
    assert free.sample_tensor(num=2, num_steps=2).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="trained without classes; sample it without labels"):
        free.sample_tensor(labels=["rose"])
    with pytest.raises(ValueError, match="guidance needs labels"):
        free.sample_tensor(num=1, guidance_scale=2.0)
    with pytest.raises(ValueError, match="trained without classes"):
        free.run(SampleRequest(seeds=(0,), labels=(0,)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"labels": ["ros"]}, "no class 'ros'"),
        ({"labels": [7]}, "label 7 is out of range"),
        ({"labels": "rose"}, "labels is a list"),
        ({"labels": []}, "at least one sample"),
        ({"num": 0}, "at least one sample"),
        ({"labels": ["rose"], "num": 2}, "disagree.*labels 1, num 2"),
        ({"labels": ["rose"], "seeds": [1, 2]}, "disagree.*labels 1, seeds 2"),
        ({"num": 3, "seeds": [1, 2]}, "disagree"),
        ({"num": 1, "guidance_scale": 2.0}, "guidance needs labels"),
        ({"num": 1, "sampler": "dpm"}, "no sampler 'dpm'"),
        ({"num": 1, "grid": "karass"}, "no grid 'karass' .did you mean 'karras'"),
        ({"num": 1, "num_steps": 0}, "num_steps and batch must be at least 1"),
        ({"num": 1, "batch": 0}, "num_steps and batch"),
        ({"num": 1, "seed": 2**63}, "does not fit 64 bits"),
        ({"labels": ["rose"], "guidance_scale": float("nan")}, "finite number"),
        ({"labels": ["rose"], "guidance_scale": 2.0, "interval": (0.7, 0.2)}, "interval"),
    ],
)
def test_wrong_requests_are_refused(rose: Pipeline, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        rose.sample_tensor(**arguments)


def test_labels_of_a_record_are_checked_against_the_model(rose: Pipeline) -> None:
    with pytest.raises(ValueError, match="labels run from 0 to 9; the model has classes 0 to 2"):
        rose.run(SampleRequest(seeds=(0, 1), labels=(0, 9)))


@given(
    seeds=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    scale=st.floats(-10, 10),
    low=st.floats(0, 0.5),
    sampler=st.sampled_from([*SAMPLERS.values(), DDIM(eta=0.3)]),
    steps=st.integers(1, 50),
)
def test_a_record_makes_the_same_request(seeds: list[int], scale: float, low: float, sampler: Any, steps: int) -> None:
    request = SampleRequest(
        seeds=tuple(seeds), guidance_scale=scale, interval=(low, 1.0), sampler=sampler, num_steps=steps
    )
    assert SampleRequest.from_record(json.loads(json.dumps(request.record()))) == request


@pytest.mark.parametrize("key", list(SampleRequest(seeds=(1,)).record()))
@pytest.mark.parametrize("value", [..., {}, "x"])
def test_damaged_records_are_refused(key: str, value: Any) -> None:
    record = SampleRequest(seeds=(1,), labels=(0,)).record()
    if value is ...:
        del record[key]
    else:
        record[key] = value
    with pytest.raises(
        ValueError, match="record|could not convert|expected|invalid|no grid|labels were given|at least one"
    ):
        SampleRequest.from_record(record)


def test_products_in_bfloat16_leave_everything_else_in_float32() -> None:
    rose = pipeline()
    request = {"labels": [0, 1], "num_steps": 3, "seed": 5}
    exact, names = rose.sample_tensor(**request), set(rose.model.state_dict())
    assert rose.with_precision("fp32").precision == "fp32"
    assert torch.equal(rose.sample_tensor(**request), exact)
    rose.with_precision("bf16").with_precision("bf16")
    backbone = rose.model.denoiser.backbone
    seen = []
    hook = next(m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)).register_forward_hook(
        lambda module, given, out: seen.append(out.dtype)
    )
    rounded = rose.sample_tensor(**request)
    hook.remove()
    assert set(seen) == {torch.bfloat16}
    assert rounded.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    assert 0.0 < (rounded - exact).abs().max() < 0.1
    assert {p.dtype for p in rose.model.parameters()} == {torch.float32}
    assert set(rose.model.state_dict()) == names
    with pytest.raises(ValueError, match="computes in bf16 already"):
        rose.with_precision("fp32")
    with pytest.raises(ValueError, match="auto, fp32 or bf16"):
        rose.with_precision("fp16")
    # An error inside does not leave the format switched on.
    with pytest.raises(ValueError, match="this network takes"):
        backbone(torch.zeros(1, 99, 8, 8), torch.zeros(1))
    assert not torch.is_autocast_enabled("cpu")


def test_every_step_can_be_watched(rose: Pipeline) -> None:
    steps = list(rose.steps(rose.request(labels=["rose"], seed=1, num_steps=5)))
    assert len(steps) == 5
    assert torch.equal(steps[-1].x_s, rose.sample_tensor(labels=["rose"], seed=1, num_steps=5))
    assert steps[-1].next_level.sigma == 0.0


def test_the_record_of_a_picture_says_what_made_it(rose: Pipeline) -> None:
    record = rose.record(rose.request(labels=["rose", 1], seed=5), kind="single", index=0)
    assert record["label_names"] == ["074_rose", "tulip"]
    assert record["seeds"] == [5, 6]
    assert record["torch"] == torch.__version__
    json.dumps(record)


def test_pictures_of_any_size_sample(tmp_path: Path) -> None:
    assert pipeline(size=(5, 11)).sample_tensor(labels=["rose"], num_steps=2).shape == (1, 1, 5, 11)
