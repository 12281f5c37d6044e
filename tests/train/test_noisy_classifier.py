"""Training a classifier of noisy samples: close to Bayes, leads an exact model to its class, kept in a folder."""

import json
from pathlib import Path

import pytest
import torch
from small_runs import draw_pictures

from kakusan import grids
from kakusan.conditioning import Condition
from kakusan.data.source import open_data
from kakusan.data.spec import DataSpec
from kakusan.guidance import ClassifierGuidance
from kakusan.levels import Level
from kakusan.model_folder import CorruptModel, read_facts
from kakusan.nn.noisy_classifier import NoisyConvNet
from kakusan.oracles import GaussianMixture
from kakusan.samplers import DPMSolverPP, sample
from kakusan.schedules import Cosine
from kakusan.train import classifier_folder
from kakusan.train.noisy_classifier import ClassifierTraining, Labelled, TrainedClassifier, train_noisy_classifier

MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.3], [0.0, -1.0]]).unsqueeze(-1)
PRIOR = GaussianMixture(MEANS, torch.tensor([0.3, 0.4, 0.2]), torch.tensor([0.3, 0.5, 0.2]), schedule=Cosine())


def points(count: int, seed: int) -> Labelled:
    """Samples (N, 2, 1) of the mixture with their components."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, generator=generator).double()
    x = PRIOR.draw(uniform, torch.randn(count, 2, 1, generator=generator)).float()
    return Labelled(lambda rows: x[rows], torch.bucketize(uniform, PRIOR.log_weights.exp().cumsum(0)).clamp(max=2))


def trained(steps: int, seed: int = 0, apart: int = 1000) -> TrainedClassifier:
    torch.manual_seed(seed)
    network = NoisyConvNet(channels=2, classes=3, rank=1, sigma_data=PRIOR.sigma_data, width=16, multipliers=(1,))
    how = ClassifierTraining(steps=steps, batch=96, rate=8e-3, seed=seed)
    return train_noisy_classifier(network, points(8000, 1), points(apart, 2), Cosine(), how=how)


@pytest.fixture(scope="module")
def classifier() -> TrainedClassifier:
    return trained(300)


@pytest.mark.parametrize("t", [0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
def test_it_agrees_with_bayes_at_every_noise_level(classifier: TrainedClassifier, t: float) -> None:
    level, x0 = Level.of(Cosine(), t), points(4000, 3).read(torch.arange(4000))
    x_t = level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(4))
    exact = PRIOR._components(x_t, level.alpha, level.sigma, None)[0].softmax(1)
    found = classifier.network.log_probabilities(x_t, level).exp()
    # Total variation, as samples meet it.
    assert float((exact - found).abs().sum(1).mean() / 2.0) < 0.06


def test_it_reports_accuracy_that_falls_with_the_noise(classifier: TrainedClassifier) -> None:
    assert classifier.measured_on == "held-out"
    accuracy = [level.accuracy for level in classifier.levels]
    assert accuracy[0] > 0.95
    # All noise: the most frequent class is all there is to say.
    assert abs(accuracy[-1] - 0.5) < 0.08
    assert accuracy[0] > accuracy[3] > accuracy[-1]
    entropy = -(PRIOR.log_weights.exp() * PRIOR.log_weights).sum()
    assert abs(classifier.levels[-1].cross_entropy - float(entropy)) < 0.06


@pytest.mark.parametrize("label", [0, 1, 2])
def test_it_leads_an_exact_unconditional_model_to_the_class(classifier: TrainedClassifier, label: int) -> None:
    guided = ClassifierGuidance(1.0)(PRIOR, classifier.network, torch.tensor([label]))
    grid = grids.log_snr(Cosine(), 30)
    led = sample(guided, DPMSolverPP(order=2), grid, (400, 2, 1), seeds=0)
    own = Condition(vector=torch.full((1, 3), -torch.inf).index_fill(1, torch.tensor([label]), 0.0))
    right = sample(PRIOR, DPMSolverPP(order=2), grid, (400, 2, 1), own, seeds=0)
    nearest = (led.unsqueeze(1) - MEANS).square().sum((2, 3)).argmin(1)
    # Without a classifier these are 0.3, 0.5 and 0.2.
    assert float((nearest == label).float().mean()) > 0.9
    assert float((led.mean(0) - right.mean(0)).abs().max()) < 0.15


def test_the_same_steps_give_the_same_weights_and_another_seed_others() -> None:
    first, second, other = trained(4, apart=16), trained(4, apart=16), trained(4, seed=1, apart=16)
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name])
    assert not torch.equal(first.network.head.weight, other.network.head.weight)
    assert first.steps == 4


def test_minutes_end_it() -> None:
    network = NoisyConvNet(channels=2, classes=3, rank=1, width=8, multipliers=(1,))
    found = train_noisy_classifier(network, points(100, 1), None, Cosine(), how=ClassifierTraining(minutes=0.01))
    assert found.steps >= 1
    assert found.best >= 1
    assert found.measured_on == "training"


class TestFolder:
    DATA = DataSpec(channels=2, size=(1,), mean=(0.0, 0.0), std=(1.0, 1.0), mode="", classes=("a", "b", "c"))

    @pytest.fixture
    def folder(self, classifier: TrainedClassifier, tmp_path: Path) -> Path:
        classifier_folder.save(tmp_path, classifier, self.DATA, {"source": "points"})
        return tmp_path

    def test_it_comes_back_as_it_was(self, classifier: TrainedClassifier, folder: Path) -> None:
        stored = classifier_folder.load(folder)
        x, level = torch.randn(5, 2, 1), Level.of(Cosine(), 0.5)
        found, expected = (n.log_probabilities(x, level) for n in (stored.network, classifier.network))
        assert torch.equal(found, expected)
        assert stored.data == self.DATA
        assert len(stored.training["levels"]) == len(classifier.levels)
        assert sorted(f.suffix for f in folder.iterdir()) == [".json", ".safetensors", ".safetensors"]

    def test_other_pictures_and_classes_are_refused(self, folder: Path) -> None:
        stored = classifier_folder.load(folder)
        stored.check_fits(self.DATA, ("a", "b", "c"))
        with pytest.raises(ValueError, match=r"tells 3 classes \(a, b, c\) apart, the model has 2 classes \(a, b\)"):
            stored.check_fits(self.DATA, ("a", "b"))
        with pytest.raises(ValueError, match="the model has no classes"):
            stored.check_fits(self.DATA, ())
        wide = DataSpec(channels=2, size=(2,), mean=(0.0, 0.0), std=(1.0, 1.0), mode="", classes=("a", "b", "c"))
        with pytest.raises(ValueError, match="trained on 2 x 1, the model draws 2 x 2"):
            stored.check_fits(wide, ("a", "b", "c"))

    def test_what_is_no_classifier_is_refused(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        tmp_path = tmp_path_factory.mktemp("other")
        with pytest.raises(ValueError, match="there is no classifier at"):
            classifier_folder.load(tmp_path / "nothing")
        (tmp_path / "model.json").write_text(json.dumps({"format": 1, "denoiser": {}}))
        with pytest.raises(CorruptModel, match=r"another kind of model \(denoiser\): load it with kakusan.load"):
            classifier_folder.load(tmp_path)
        with pytest.raises(CorruptModel, match="another kind of model"):
            read_facts(folder)

    def test_damage_is_noticed(self, folder: Path) -> None:
        facts = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**facts, "data": {"type": "DataSpec"}}))
        with pytest.raises(CorruptModel, match="incomplete or damaged"):
            classifier_folder.load(folder)
        (folder / "model.json").write_text(json.dumps(facts))
        weights = folder / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4])
        with pytest.raises(CorruptModel, match="damaged"):
            classifier_folder.load(folder)


def test_pictures_without_classes_are_refused(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "one", classes=("only",), each=3)
    with pytest.raises(ValueError, match="at least two classes"):
        Labelled.of(open_data(tmp_path / "one"))
    with pytest.raises(ValueError, match="no pictures to train"):
        nothing = Labelled(lambda rows: rows, torch.zeros(0, dtype=torch.int64))
        network = NoisyConvNet(channels=1, classes=2, rank=1)
        train_noisy_classifier(network, nothing, None, Cosine(), how=ClassifierTraining(steps=1))


@pytest.mark.parametrize(
    "wrong", [{"minutes": 0.0}, {"steps": 0}, {"batch": 0}, {"rate": 0.0}, {"decay": -1.0}, {"rate": float("nan")}]
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        ClassifierTraining(**wrong)
