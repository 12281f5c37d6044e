"""The variational bound against closed forms: entropy, rates, invariance, and what it refuses."""

import dataclasses
import math

import pytest
import torch
from likelihood_laws import (
    draws_of,
    even_log_snr,
    excess,
    lone,
    posterior_coefficient,
    slope,
    trefoil,
    typical,
)

from kakusan.choices import SCHEDULES
from kakusan.conditioning import Condition
from kakusan.denoiser import Denoiser
from kakusan.likelihood import (
    Beta,
    Categorical,
    Control,
    Density,
    DiscretizedGaussian,
    Learned,
    Posterior,
    prior_divergence,
    step_bound,
    step_table,
    variational_bound,
)
from kakusan.likelihood.bound import log_snr_ends
from kakusan.oracles import DataSet, GaussianMixture
from kakusan.parameterizations import Eps
from kakusan.schedules import Cosine, Karras, Rectified, VarianceExploding, VariancePreserving
from kakusan.time_samplers import LogNormalSigma, Uniform

COUNT = 400


class Inner:
    """A path cut to log-SNRs between -6 and 6."""

    t_min = property(lambda self: float(self.time(torch.tensor(6.0, dtype=torch.float64))))
    t_max = property(lambda self: float(self.time(torch.tensor(-6.0, dtype=torch.float64))))


class InnerCosine(Inner, Cosine):
    pass


class InnerKarras(Inner, Karras):
    pass


def gap(schedule, **options):
    """(mean of bound + log p, its standard error), nats/dim."""
    mixture = trefoil(schedule)
    x = draws_of(mixture, COUNT)
    found = variational_bound(mixture, x, decoder=Density(), seeds=range(COUNT), **options)
    error = (found.total + mixture.log_prob(x)) / 2.0
    return float(error.mean()), float(error.std() / math.sqrt(COUNT))


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_bound_of_the_exact_denoiser_is_the_truth(name):
    # Times of two kinds: the interior of a schedule changes nothing.
    for times in (LogNormalSigma(-0.7, 1.5), Uniform()):
        mean, error = gap(SCHEDULES[name], draws=16, times=times)
        assert error < 1.5e-2
        assert abs(mean) < 3.5 * error + 1e-5


@pytest.mark.parametrize("control", [Control(0.0), Control(0.3), Control(1.0)], ids=lambda c: f"{c.scale}")
def test_the_control_variate_changes_the_spread_and_not_the_value(control):
    mean, error = gap(Cosine(), draws=32, control=control)
    assert abs(mean) < 3.5 * error
    if control.scale == 1.0:
        assert error < 0.5 * gap(Cosine(), draws=32, control=Control(0.0))[1]


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_bound_of_a_gaussian_is_exact(name):
    gaussian = lone(SCHEDULES[name])
    x = typical(gaussian)
    found = variational_bound(gaussian, x, decoder=Density(), seeds=[5], draws=2)
    level = torch.tensor(SCHEDULES[name].t_min, dtype=torch.float64)
    u = float(SCHEDULES[name].sigma(level) / SCHEDULES[name].alpha(level))
    # The decoder's own gap: the true posterior of x given z at t_min is narrower than the noise by u^2 / variance.
    decoder = 0.5 * u**2 / 0.25
    entropy = 0.5 * math.log(2.0 * math.pi * math.e * 0.25)
    assert float(found.total) == pytest.approx(entropy + decoder, abs=1e-7 + float(prior_divergence(gaussian, x)))


def test_the_prior_s_divergence_is_torch_s():
    gaussian = GaussianMixture(torch.full((1, 2), 0.3), 0.7, schedule=VarianceExploding())
    x = torch.randn(6, 2, dtype=torch.float64)
    sigma = float(VarianceExploding().sigma(torch.tensor(1.0, dtype=torch.float64)))
    true = torch.distributions.Normal(x, sigma)
    prior = torch.distributions.Normal(torch.zeros_like(x), (sigma**2 + gaussian.sigma_data**2) ** 0.5)
    wanted = torch.distributions.kl_divergence(true, prior).sum(1)
    torch.testing.assert_close(prior_divergence(gaussian, x), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("schedule", [InnerCosine(), InnerKarras()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("variance", [Posterior(), Beta()], ids=lambda v: type(v).__name__)
def test_the_chain_tends_to_the_continuous_bound_at_first_order(schedule, variance):
    steps, gaussian = (24, 48, 96), lone(schedule)
    errors = [excess(gaussian, even_log_snr(schedule, n + 1), variance) for n in steps]
    assert slope(steps, errors) == pytest.approx(1.0, abs=0.1)
    high, low = log_snr_ends(schedule)
    log_snr = torch.linspace(low, high, 20_001, dtype=torch.float64)
    t = schedule.time(log_snr)
    beta = -2.0 * schedule.sigma_prime(t) / schedule.sigma(t) / schedule.log_snr_prime(t)
    share = {Posterior: torch.zeros_like(beta), Beta: beta}[type(variance)]
    limit = posterior_coefficient(schedule, 0.5, share, log_snr)
    # Richardson: the next order leaves the product T * excess.
    products = [n * e for n, e in zip(steps, errors, strict=True)]
    assert 2.0 * products[-1] - products[-2] == pytest.approx(limit, rel=0.02)


def test_each_term_of_the_chain_is_the_divergence_of_two_gaussians():
    schedule, mixture = VariancePreserving(), trefoil(VariancePreserving())
    x = draws_of(mixture, 5)
    grid = torch.tensor([0.9, 0.5, 0.2, 0.05], dtype=torch.float64)
    for variance in (Posterior(), Beta()):
        table = step_table(
            mixture, x, decoder=Density(), seeds=range(5), steps=grid, variance=variance, control=Control(0.0), draws=1
        )
        assert table.shape == (5, 5)
        for i, (t, s) in enumerate(zip(grid[:-1].flip(0), grid[1:].flip(0), strict=True), start=1):
            from kakusan.likelihood.bound import signed_noise

            alpha_t, sigma_t, alpha_s, sigma_s = (float(f(v)) for v in (t, s) for f in (schedule.alpha, schedule.sigma))
            z = alpha_t * x + sigma_t * signed_noise(torch.arange(5), 0, x, part=i)
            ratio = alpha_t / alpha_s
            beta = sigma_t**2 - (ratio * sigma_s) ** 2
            small = beta * sigma_s**2 / sigma_t**2

            def mean(guess, z=z, k=ratio * sigma_s**2 / sigma_t**2, g=alpha_s * beta / sigma_t**2):
                return k * z + g * guess

            chosen = small if isinstance(variance, Posterior) else beta
            true = torch.distributions.Normal(mean(x), small**0.5)
            model = torch.distributions.Normal(mean(mixture(z, float(t)).x0), chosen**0.5)
            wanted = torch.distributions.kl_divergence(true, model).sum(1)
            torch.testing.assert_close(table[:, i], wanted, rtol=1e-7, atol=1e-9)


def test_random_terms_have_the_sum_of_all_terms():
    mixture, count = trefoil(Cosine()), 3000
    x = draws_of(mixture, 1).expand(count, 2)
    options = {"decoder": Density(), "seeds": range(count), "steps": even_log_snr(Cosine(), 12)}
    whole = step_table(mixture, x, draws=1, **options).sum(1)
    part = step_bound(mixture, x, draws=6, **options).total
    spread = math.sqrt((float(whole.var()) + float(part.var())) / count)
    assert float(part.mean() - whole.mean()) == pytest.approx(0.0, abs=3.5 * spread)


def test_a_chain_of_even_times_has_the_terms_of_the_paper():
    mixture = trefoil(Rectified())
    x = draws_of(mixture, 2)
    assert step_table(mixture, x, decoder=Density(), seeds=range(2), steps=20).shape == (2, 21)
    assert step_table(mixture, x, decoder=Density(), seeds=range(2), steps=1).shape == (2, 2)


@pytest.mark.parametrize("decoder", [Categorical(5), DiscretizedGaussian(5)])
def test_the_bound_of_discrete_data_is_their_entropy(decoder):
    # Two pictures of five levels, equally likely: one bit each, in the continuous bound; in the chain a little more.
    pictures = torch.tensor([[-1.0, 0.5, 0.0, 1.0], [1.0, 0.5, -0.5, -1.0]], dtype=torch.float64)
    oracle, count = DataSet(pictures, schedule=Cosine()), 600
    oracle.samples, oracle.energy = pictures, pictures.square().sum(1)
    x = pictures.repeat(count // 2, 1)
    found = variational_bound(oracle, x, decoder=decoder, seeds=range(count), draws=32).total
    assert float(found.mean()) == pytest.approx(math.log(2.0), abs=3.5 * float(found.std()) / math.sqrt(count) + 1e-6)
    chain = step_bound(oracle, x, decoder=decoder, seeds=range(count), draws=32, steps=even_log_snr(Cosine(), 64)).total
    assert float(chain.mean()) > math.log(2.0) - 3.5 * float(chain.std()) / math.sqrt(count)


def test_a_sample_s_bound_does_not_depend_on_its_batch():
    mixture = trefoil(Cosine())
    x = draws_of(mixture, 4)
    seeds = [9, 4, 2**40, -3]
    options = {"decoder": Density(), "draws": 3}
    together = variational_bound(mixture, x, seeds=seeds, **options).total
    chain = step_table(mixture, x, seeds=seeds, steps=6, **options)
    for i in range(4):
        part = slice(i, i + 1)
        alone = variational_bound(mixture, x[part], seeds=seeds[part], **options).total
        torch.testing.assert_close(alone, together[part], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            step_table(mixture, x[part], seeds=seeds[part], steps=6, **options), chain[part], rtol=1e-12, atol=1e-12
        )


def test_conditions_change_the_bound():
    mixture = trefoil(Cosine())
    x = draws_of(mixture, 200)
    options = {"decoder": Density(), "seeds": range(200), "draws": 16}
    # Log-weights of -30 elsewhere leave one component, whose density is known.
    only = Condition(vector=torch.tensor([[0.0, -30.0, -30.0]]))
    found = variational_bound(mixture, x, only, **options).total
    single = GaussianMixture(mixture.means[:1], 0.6, schedule=Cosine())
    near = single.log_prob(x) > -4.0
    error = (found + single.log_prob(x))[near]
    assert float(error.mean()) == pytest.approx(0.0, abs=3.5 * float(error.std()) / math.sqrt(int(near.sum())))
    assert float((found - variational_bound(mixture, x, **options).total).abs().max()) > 1.0


def test_what_has_no_bound_is_refused():
    mixture = trefoil(Cosine())
    x = draws_of(mixture, 2)
    good = {"decoder": Density(), "seeds": [0, 1]}
    for wrong, match in (
        ({"seeds": [0]}, "1 seeds"),
        ({"draws": 0}, "at least 1"),
        ({"decoder": Categorical(17)}, "evenly spaced"),
    ):
        for bound in (variational_bound, step_table, step_bound):
            with pytest.raises(ValueError, match=match):
                bound(mixture, x, **{**good, **wrong})
    with pytest.raises(ValueError, match="model units"):
        variational_bound(mixture, torch.zeros(2, 2, dtype=torch.uint8), **good)
    for steps, match in (
        (0, "at least one step"),
        (torch.tensor([0.2, 0.5]), "falling"),
        (torch.tensor([0.5, 1e-9]), "between t_min"),
        (torch.tensor([1.5, 0.5]), r"lie in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=match):
            step_table(mixture, x, steps=steps, **good)
    with pytest.raises(ValueError, match="no learned variance"):
        step_table(mixture, x, steps=4, variance=Learned(), **good)
    with pytest.raises(ValueError, match="not negative"):
        dataclasses.replace(Control(), scale=-1.0)
    mixture.independent_noise = False
    with pytest.raises(ValueError, match="coupled pairs"):
        variational_bound(mixture, x, **good)


class Wide(torch.nn.Module):
    """A backbone of twice the channels: some guess of the noise, and the same variance everywhere."""

    def __init__(self, fraction):
        super().__init__()
        self.fraction = fraction

    def forward(self, x, c_noise, cond):
        return torch.cat([0.5 * x, torch.full_like(x, 2.0 * self.fraction - 1.0)], 1)


def test_a_learned_variance_at_its_ends_is_the_posterior_s_or_beta():
    x = torch.tensor([-1.0, 0.5, 0.0, 1.0]).view(1, 1, 2, 2).expand(3, 1, 2, 2).double()
    for fraction, like in ((0.0, Posterior()), (1.0, Beta())):
        model = Denoiser(Wide(fraction), Cosine(), Eps(), learned_variance=True)
        for bound in (step_table, step_bound):
            options = {"decoder": Categorical(5), "seeds": range(3), "steps": 6, "control": Control(0.0)}
            found, wanted = (bound(model, x, variance=variance, **options) for variance in (Learned(), like))
            if bound is step_bound:
                found, wanted = found.total, wanted.total
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    mean = {"decoder": DiscretizedGaussian(5), "seeds": range(3), "steps": 6}
    assert bool(step_table(model, x, variance=Learned(), **mean).isfinite().all())
