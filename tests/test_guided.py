"""From a request to a denoiser: what each option does to a model, what it costs, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.building import build_model
from kakusan.choices import build_objective
from kakusan.config import ModelSettings, ObjectiveSettings
from kakusan.data.spec import DataSpec
from kakusan.guidance import (
    RULES,
    ByClassifier,
    DynamicThresholding,
    Linear,
    Projected,
    StaticThresholding,
    Weaker,
    WithoutAttention,
    ZeroStar,
)
from kakusan.model_folder import ModelFacts
from kakusan.nn.noisy_classifier import NoisyConvNet
from kakusan.pipeline import Pipeline, load
from kakusan.request import SampleRequest
from kakusan.samplers import DDIM
from kakusan.train import classifier_folder
from kakusan.train.noisy_classifier import TrainedClassifier

CLASSES = ("rose", "tulip", "lily")
DATA = DataSpec(channels=1, size=(8, 8), mean=(0.1,), std=(0.5,), mode="L", classes=CLASSES)


def tiny(seed: int = 3, **chosen: Any) -> Pipeline:
    torch.manual_seed(seed)
    model = build_model(ModelSettings(width=8, depth=1, multipliers=(1, 2), **chosen), DATA)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Pipeline(model, ModelFacts(DATA, build_objective(ObjectiveSettings(), DATA)), weights="raw")


def folder(pipeline: Pipeline, path: Path) -> str:
    from kakusan.model_folder import write

    path.mkdir()
    write(path, pipeline.model, pipeline.facts, {})
    return str(path)


@pytest.fixture(scope="module")
def rose() -> Pipeline:
    return tiny()


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    return tiny(conditional=False)


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> str:
    return folder(tiny(seed=9), tmp_path_factory.mktemp("worse") / "model")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    network = NoisyConvNet.for_data(1, (8, 8), 3, sigma_data=0.5, width=8)
    with torch.no_grad():
        network.head.weight.normal_()
    path = tmp_path_factory.mktemp("classifier")
    classifier_folder.save(path, TrainedClassifier(network, (), 1, 1, "held-out"), DATA, {})
    return str(path)


def draw(pipeline: Pipeline, **options: Any) -> torch.Tensor:
    return pipeline.sample_tensor(**{"num_steps": 2, "sampler": "ddim", **options})


@settings(max_examples=25)
@given(
    scale=st.sampled_from([0.0, 1.0, 2.5, -1.0]),
    each=st.booleans(),
    mixed=st.booleans(),
    negative=st.booleans(),
    labelled=st.booleans(),
    rescale=st.sampled_from([0.0, 0.7]),
    rule=st.sampled_from([Linear(), Projected(), ZeroStar(still_above=1.0), ZeroStar()]),
    attention=st.sampled_from([None, 0.0, 1.0, 2.0]),
    weaker=st.sampled_from([None, 0.0, 1.0, 2.0]),
)
def test_what_a_request_says_it_costs_is_what_it_costs(
    rose: Pipeline,
    worse: str,
    scale: float,
    each: bool,
    mixed: bool,
    negative: bool,
    labelled: bool,
    rescale: float,
    rule: Any,
    attention: float | None,
    weaker: float | None,
) -> None:
    guides = [] if attention is None else [WithoutAttention(attention)]
    guides += [] if weaker is None else [Weaker(worse, None, weaker)]
    guided = labelled or negative
    request = rose.request(
        num=2,
        labels=["rose", "lily"] if labelled else None,
        guidance_scale=None if not guided else [scale, 2.0] if each else scale,
        rescale=rescale,
        rule=rule,
        negative="tulip" if negative else None,
        mixture={"tulip": 0.3} if mixed and labelled else None,
        guides=tuple(guides),
        sampler="ddim",
        num_steps=2,
    )
    seen: list[int] = []
    with rose.watched(seen.append):
        rose.run(request)
    assert sum(seen) == 2 * 2 * request.evaluations
    again = SampleRequest.from_record(json.loads(json.dumps(request.record())))
    assert again == request


@pytest.mark.parametrize(
    "options",
    [
        {"negative": "tulip"},
        {"mixture": {"tulip": 0.4}},
        {"rescale": 0.5},
        {"interval": (0.0, 0.4)},
        {"thresholding": DynamicThresholding(0.9, 0.2)},
        {"thresholding": StaticThresholding(0.2)},
        {"guides": (WithoutAttention(2.0),)},
        *({"rule": name} for name in RULES if name != "linear"),
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_option_changes_the_samples(rose: Pipeline, options: dict[str, Any]) -> None:
    # Four steps, for APG remembers only from the second on and CFG-Zero* stands still in the first.
    common = {"labels": ["rose", "lily"], "guidance_scale": 2.0, "num_steps": 4}
    found, without = draw(rose, **common, **options), draw(rose, **common)
    assert found.isfinite().all()
    assert not torch.allclose(found, without, atol=1e-3)


def test_guides_of_other_models_change_the_samples(rose: Pipeline, worse: str, classifier: str) -> None:
    without = draw(rose, labels=["rose"])
    for guide in (Weaker(worse), ByClassifier(classifier, 20.0)):
        assert not torch.allclose(draw(rose, labels=["rose"], guides=(guide,)), without, atol=1e-3)
    for off in (Weaker(worse, scale=1.0), ByClassifier(classifier, 0.0)):
        torch.testing.assert_close(draw(rose, labels=["rose"], guides=(off,)), without)
    # The weaker model alone.
    alone = draw(load(worse), labels=["rose"])
    torch.testing.assert_close(
        draw(rose, labels=["rose"], guides=(Weaker(worse, scale=0.0),)), alone, rtol=1e-4, atol=1e-4
    )


def test_a_model_without_classes_is_led_by_a_classifier_of_its_data(plain: Pipeline, classifier: str) -> None:
    guides = (ByClassifier(classifier, 20.0),)
    rose, lily = (draw(plain, labels=[name], seed=4, guides=guides) for name in ("rose", "lily"))
    assert not torch.allclose(rose, lily, atol=1e-3)
    free = draw(plain, num=1, seed=4)
    assert not torch.allclose(rose, free, atol=1e-3)
    request = plain.request(labels=["lily"], guides=guides)
    assert plain.record(request)["label_names"] == ["lily"]
    assert request.labels == (2,)
    with pytest.raises(ValueError, match="no class 'roze'"):
        plain.request(labels=["roze"], guides=guides)
    with pytest.raises(ValueError, match="trained without classes"):
        plain.request(labels=["rose"])
    with pytest.raises(ValueError, match="trained without classes"):
        plain.run(SampleRequest(seeds=(0,), labels=(0,)))
    with pytest.raises(ValueError, match="trained without classes"):
        draw(plain, labels=["rose"], guidance_scale=2.0, guides=guides)
    with pytest.raises(ValueError, match="needs labels"):
        draw(plain, num=1, guides=guides)


def test_a_model_without_classes_is_led_by_a_weaker_one_and_without_attention(plain: Pipeline, worse: str) -> None:
    free = draw(plain, num=2)
    for guide in (Weaker(worse), WithoutAttention()):
        assert not torch.allclose(draw(plain, num=2, guides=(guide,)), free, atol=1e-3)


def test_guides_combine_and_each_picture_is_its_own(rose: Pipeline, worse: str, classifier: str) -> None:
    options: dict[str, Any] = {
        "guides": (WithoutAttention(1.5), Weaker(worse, None, 1.5), ByClassifier(classifier, 5.0)),
        "rule": "apg",
        "rescale": 0.3,
        "mixture": {"tulip": 0.3},
        "thresholding": DynamicThresholding(),
        "guidance_scale": 2.0,
        "num_steps": 3,
    }
    together = draw(rose, labels=["rose", "lily", "tulip"], seed=5, **options)
    for k, label in enumerate(["rose", "lily", "tulip"]):
        alone = draw(rose, labels=[label], seed=5 + k, **options)
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-3, atol=1e-4)


def test_a_record_names_what_guided_by_its_content(rose: Pipeline, worse: str, classifier: str) -> None:
    request = rose.request(labels=["rose"], guides=(Weaker(worse), ByClassifier(classifier)))
    known = rose.record(request)["companions"]
    assert known == {worse: load(worse).model_hash, classifier: classifier_folder.load(Path(classifier)).model_hash}
    assert "companions" not in rose.record(rose.request(num=1))
    assert request.moved({worse: "there"}).guides[0] == Weaker("there")


def test_what_does_not_fit_is_refused(rose: Pipeline, plain: Pipeline, tmp_path: Path, classifier: str) -> None:
    other = DataSpec(channels=1, size=(6, 6), mean=(0.1,), std=(0.5,), mode="L", classes=CLASSES)
    model = build_model(ModelSettings(width=8, depth=1, multipliers=(1, 2)), other)
    small = folder(
        Pipeline(model, ModelFacts(other, build_objective(ObjectiveSettings(), other)), weights="raw"),
        tmp_path / "small",
    )
    with pytest.raises(ValueError, match=r"the weaker model draws \(1, 6, 6\)"):
        draw(rose, labels=["rose"], guides=(Weaker(small),))
    with pytest.raises(ValueError, match="no run or model at"):
        draw(rose, labels=["rose"], guides=(Weaker(str(tmp_path / "none")),))
    with pytest.raises(ValueError, match="there is no classifier"):
        draw(rose, labels=["rose"], guides=(ByClassifier(str(tmp_path / "none")),))
    with pytest.raises(ValueError, match="another kind of model"):
        draw(rose, labels=["rose"], guides=(ByClassifier(small),))
    with pytest.raises(ValueError, match="another kind of model"):
        draw(rose, labels=["rose"], guides=(Weaker(classifier),))
    with pytest.raises(ValueError, match="no self-attention layer 7"):
        draw(rose, labels=["rose"], guides=(WithoutAttention(2.0, (7,)),))
    with pytest.raises(ValueError, match="use it with the sampler ddim"):
        rose.request(labels=["rose"], rule="plus-plus", sampler="heun")
    with pytest.raises(ValueError, match="without condition dropout|never|dropout"):
        draw(tiny(condition_dropout=0.0), labels=["rose"], guidance_scale=2.0)
    for wrong in (lambda: Weaker("x", scale=float("nan")), lambda: WithoutAttention(1.0, interval=(0.5, 0.1))):
        with pytest.raises(ValueError):
            wrong()


def test_mixing_classes_needs_no_unconditional_model() -> None:
    always = tiny(condition_dropout=0.0)
    mixed = draw(always, labels=["rose"], mixture={"lily": 1.0})
    torch.testing.assert_close(mixed, draw(always, labels=["lily"]), rtol=1e-4, atol=1e-5)
    assert DDIM() == always.request(num=1, sampler="ddim").sampler
