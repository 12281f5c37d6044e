"""Corrected guidance samples the density that guidance is said to sample; plain guidance does not."""

import pytest
import torch

from kakusan import grids
from kakusan.conditioning import Condition
from kakusan.guidance import AutoGuidance, ClassifierFree, FeynmanKac, Projected
from kakusan.oracles import GaussianMixture
from kakusan.samplers import DDIM, sample
from kakusan.schedules import Cosine

# Wide and narrow components, so that following the guided score gets their weights wrong.
MEANS = torch.tensor([[[-2.0]], [[0.0]], [[2.0]]])
STD = torch.tensor([0.4, 0.05, 0.4])
WEIGHTS = torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64)
PRIOR = GaussianMixture(MEANS, STD, WEIGHTS, schedule=Cosine())
FIRST, SECOND = torch.tensor([0.0, 0.8, -0.8]), torch.tensor([-0.6, 0.0, 0.3])
NULL = Condition(vector=torch.zeros(1, 3))
GRID = grids.log_snr(Cosine(), 120)


def condition(tilt):
    return Condition(vector=tilt.unsqueeze(0))


def product(*powers):
    """Weights of a product of mixtures of the same well separated components, to powers that add up to 1."""
    return sum(power * (PRIOR.log_weights + tilt).log_softmax(0) for tilt, power in powers).softmax(0)


def shares(guided, sampler, cond, count=4000):
    x = sample(guided, sampler, GRID, (count, 1, 1), cond, seeds=0)
    nearest = (x.flatten().unsqueeze(1) - MEANS.flatten()).abs().argmin(1)
    return torch.bincount(nearest, minlength=3).double() / count


def test_corrected_guidance_samples_the_tilted_mixture_and_plain_guidance_does_not():
    guided, exact = ClassifierFree(-1.0)(PRIOR, NULL), product((torch.zeros(3), 2.0), (FIRST, -1.0))
    assert float((shares(guided, FeynmanKac(), condition(FIRST)) - exact).abs().max()) < 0.035
    assert float((shares(guided, DDIM(eta=1.0), condition(FIRST), 2000) - exact).abs().max()) > 0.07
    assert float((shares(guided, DDIM(), condition(FIRST), 2000) - exact).abs().max()) > 0.07


def test_a_mixture_of_conditions_is_the_product_of_their_densities():
    guided = ClassifierFree(1.5)(PRIOR, NULL, mixture=[(0.4, condition(SECOND))])
    exact = product((torch.zeros(3), -0.5), (FIRST, 0.9), (SECOND, 0.6))
    assert float((shares(guided, FeynmanKac(groups=2), condition(FIRST)) - exact).abs().max()) < 0.035


def test_autoguidance_is_corrected_too():
    weaker = GaussianMixture(MEANS, STD, torch.tensor([0.5, 0.2, 0.3]), schedule=Cosine())
    log_weaker = weaker.log_weights
    exact = (2.0 * PRIOR.log_weights - log_weaker).softmax(0)
    assert float((shares(AutoGuidance(2.0)(PRIOR, weaker), FeynmanKac(), None) - exact).abs().max()) < 0.035


def test_scale_one_is_the_condition_itself():
    found = shares(ClassifierFree(1.0)(PRIOR, NULL), FeynmanKac(), condition(FIRST), 3000)
    assert float((found - product((FIRST, 1.0))).abs().max()) < 0.03


@pytest.mark.parametrize(
    ("guided", "sampler", "message"),
    [
        (PRIOR, FeynmanKac(), "under plain guidance"),
        (ClassifierFree(2.0, rule=Projected())(PRIOR, NULL), FeynmanKac(), "under plain guidance"),
        (ClassifierFree(2.0, rescale=0.5)(PRIOR, NULL), FeynmanKac(), "without rescale"),
        (ClassifierFree(2.0)(PRIOR, NULL), FeynmanKac(groups=3), "shared out among 3 groups"),
        (ClassifierFree(2.0)(AutoGuidance(2.0)(PRIOR, PRIOR), NULL), FeynmanKac(), "one guidance"),
    ],
)
def test_it_is_refused_where_it_means_nothing(guided, sampler, message):
    with pytest.raises(ValueError, match=message):
        sample(guided, sampler, grids.uniform(Cosine(), 3), (4, 1, 1), condition(FIRST))


def test_groups_are_at_least_one():
    with pytest.raises(ValueError):
        FeynmanKac(groups=0)
