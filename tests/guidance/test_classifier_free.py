"""Classifier-free guidance: what its scale, rescale and interval mean, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan import grids, specs
from kakusan.conditioning import ClassLabels, Condition
from kakusan.denoiser import Denoiser
from kakusan.guidance import ClassifierFree
from kakusan.oracles import GaussianMixture
from kakusan.parameterizations import V
from kakusan.samplers import DDIM, DDPM, DPMSolverPP, Heun, sample
from kakusan.schedules import Cosine

GENERATOR = torch.Generator().manual_seed(6)
WANTED = Condition(vector=torch.tensor([[0.0, -2.0, -4.0]]))
NULL = Condition(vector=torch.zeros(1, 3))
X = torch.randn(4, 2, 5, dtype=torch.float64, generator=GENERATOR)
reals = st.floats(-20.0, 20.0)


class Spy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x, c_noise, cond):
        self.batches.append(len(x))
        return torch.tanh(x) + cond.vector.sum(1).to(x).view(-1, *[1] * (x.dim() - 1)) * x.abs()


def oracle():
    means = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(3))
    return GaussianMixture(means, 0.4, schedule=Cosine())


@given(scale=reals, t=st.floats(0.05, 0.95))
def test_any_real_scale_extrapolates_along_one_line(scale, t):
    denoiser = oracle()
    wanted, free = denoiser(X, t, WANTED.expand(4)), denoiser(X, t, NULL.expand(4))
    guided = ClassifierFree(scale=scale)(denoiser, NULL)(X, t, WANTED)
    for name in ("x0", "eps", "score"):
        line = getattr(free, name) + scale * (getattr(wanted, name) - getattr(free, name))
        torch.testing.assert_close(getattr(guided, name), line, rtol=1e-6, atol=1e-6)


def test_the_guided_score_is_that_of_the_sharpened_density():
    # score = grad log p(x) + scale grad log p(c | x), by autograd of the two densities.
    denoiser, t, scale = oracle(), 0.4, 2.5
    x = X.clone().requires_grad_(True)
    level = torch.tensor(t, dtype=torch.float64)
    plain = denoiser.log_prob(x, level)
    weights = (WANTED.vector[0].double() + denoiser.log_weights).exp()
    conditional = GaussianMixture(denoiser.means, 0.4, weights, schedule=Cosine()).log_prob(x, level)
    (gradient,) = torch.autograd.grad((plain + scale * (conditional - plain)).sum(), x)
    torch.testing.assert_close(
        ClassifierFree(scale=scale)(denoiser, NULL)(X, t, WANTED).score, gradient, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("sampler", [DDIM(), DDPM(), Heun(), DPMSolverPP(2)], ids=str)
def test_law_2_guidance_at_one_is_plain_and_at_zero_unconditional(sampler):
    denoiser, grid = oracle(), grids.uniform(Cosine(), 6)
    plain, free = (sample(denoiser, sampler, grid, (3, 2, 5), cond) for cond in (WANTED, NULL))
    for scale, expected in ((1.0, plain), (0.0, free)):
        guided = ClassifierFree(scale=scale)(denoiser, NULL)
        assert torch.equal(sample(guided, sampler, grid, (3, 2, 5), WANTED), expected)
    assert not torch.allclose(plain, free, atol=1e-2)


@pytest.mark.parametrize("scale,calls", [(1.0, [4]), (0.0, [4]), (3.0, [8]), (-1.0, [8]), (0.5, [8])])
def test_one_batched_pass(scale, calls):
    spy = Spy()
    guided = ClassifierFree(scale=scale)(Denoiser(spy, Cosine(), V()), NULL)
    guided(X, 0.5, WANTED)
    assert spy.batches == calls
    spy.batches.clear()
    guided(X, torch.tensor([0.2, 0.4, 0.6, 0.8]), WANTED)
    assert spy.batches in (calls, [8])


@given(st.lists(reals, min_size=4, max_size=4), st.sampled_from([0.0, 0.7]))
def test_a_scale_for_each_sample(scales, rescale):
    denoiser = oracle()
    together = ClassifierFree(scale=torch.tensor(scales), rescale=rescale)(denoiser, NULL)(X, 0.5, WANTED).x0
    for i, scale in enumerate(torch.tensor(scales).tolist()):
        alone = ClassifierFree(scale=scale, rescale=rescale)(denoiser, NULL)(X[i : i + 1], 0.5, WANTED).x0
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@given(scale=reals, phi=st.floats(-1.0, 2.0))
def test_rescale_brings_the_output_s_deviation_towards_the_conditional_one(scale, phi):
    denoiser = Denoiser(Spy(), Cosine(), V())
    level = 0.6

    def output(cond, **settings):
        return ClassifierFree(**settings)(denoiser, NULL)(X, level, cond)._output

    wanted, mixed = output(WANTED, scale=1.0), output(WANTED, scale=scale)
    found = output(WANTED, scale=scale, rescale=phi)
    for i in range(len(X)):  # each sample by its own deviation, the same factor for all of its elements
        target = (1.0 - phi) * mixed[i].std() + phi * wanted[i].std()
        if scale == 1.0:
            target = wanted[i].std()
        assert float(found[i].std()) == pytest.approx(abs(float(target)), rel=1e-6, abs=1e-9)
        torch.testing.assert_close(found[i] * mixed[i].std(), mixed[i] * target, rtol=1e-6, atol=1e-9)


@given(st.floats(0.02, 0.98))
def test_outside_its_interval_guidance_is_off(t):
    denoiser = oracle()
    guided = ClassifierFree(scale=4.0, interval=(0.3, 0.6))(denoiser, NULL)
    expected = ClassifierFree(scale=4.0 if 0.3 <= t <= 0.6 else 1.0)(denoiser, NULL)(X, t, WANTED).x0
    torch.testing.assert_close(guided(X, t, WANTED).x0, expected)
    # For samples at different times, each by its own.
    times = torch.tensor([t, 0.1, 0.45, 0.8], dtype=torch.float64)
    together = guided(X, times, WANTED).x0
    for i, each in enumerate(times.tolist()):
        torch.testing.assert_close(together[i : i + 1], guided(X[i : i + 1], each, WANTED).x0, rtol=1e-6, atol=1e-6)


def test_guidance_composes_with_another_schedule_and_keeps_the_facts():
    denoiser = oracle()
    guided = ClassifierFree(scale=2.0)(denoiser, NULL)
    assert guided.schedule is denoiser.schedule
    assert guided.sigma_data == denoiser.sigma_data
    assert guided.independent_noise
    twice = ClassifierFree(scale=1.0)(guided, NULL)
    torch.testing.assert_close(twice(X, 0.5, WANTED).x0, guided(X, 0.5, WANTED).x0)


def test_more_guidance_moves_samples_to_the_condition():
    denoiser, grid = oracle(), grids.uniform(Cosine(), 20)
    shares = []
    for scale in (0.0, 1.0, 3.0):
        out = sample(ClassifierFree(scale=scale)(denoiser, NULL), DDIM(), grid, (200, 2, 5), WANTED, seeds=0)
        nearest = (out[:, None].double() - denoiser.means).flatten(2).norm(dim=2).argmin(1)
        shares.append(float((nearest == 0).double().mean()))
    assert shares[0] < 0.5 < shares[1] <= shares[2]


def test_no_condition_is_refused():
    with pytest.raises(ValueError, match="guidance needs a condition"):
        ClassifierFree(scale=2.0)(oracle(), NULL)(X, 0.5)


def test_a_model_trained_without_dropout_cannot_be_guided():
    with pytest.raises(ValueError, match="trained without condition dropout"):
        ClassLabels(classes=["a", "b"], width=4, dropout=0.0).null()
    null = ClassLabels(classes=["a", "b"], width=4, dropout=0.1).null(3)
    assert null.vector.shape == (3, 4)


@pytest.mark.parametrize(
    "settings,message",
    [
        (dict(scale=float("nan")), "finite"),
        (dict(scale=float("inf")), "finite"),
        (dict(rescale=float("nan")), "finite"),
        (dict(interval=(0.5, 0.2)), "interval"),
        (dict(interval=(-0.1, 0.2)), "interval"),
    ],
)
def test_nonsense_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClassifierFree(**settings)


def test_stored_and_built_again():
    guidance = ClassifierFree(scale=-2.5, rescale=0.7, interval=(0.1, 0.9))
    assert specs.from_spec(specs.to_spec(guidance), ClassifierFree) == guidance
    assert ClassifierFree(scale=1.0).off
    assert not guidance.off
