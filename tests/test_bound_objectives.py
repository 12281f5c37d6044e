"""Learned variance and the variational objective: what they minimise has its optimum where theory says."""

import math

import pytest
import torch

from kakusan.bound_objectives import Hybrid, Variational
from kakusan.denoiser import Denoiser
from kakusan.guidance import ClassifierFree
from kakusan.learned_schedule import LearnedSchedule
from kakusan.levels import Level
from kakusan.likelihood import Categorical, Density
from kakusan.objectives import Objective, Simple
from kakusan.parameterizations import Eps
from kakusan.samplers import DDPM, sample
from kakusan.schedule_tables import Tabulated
from kakusan.time_samplers import Discrete
from kakusan.transitions import posterior_mean_factors, posterior_variance, transition_variance

SPREAD = 0.6


class Gaussian(torch.nn.Module):
    """The exact eps of data N(0, SPREAD^2) on a variance preserving path, and a constant said of the variance."""

    def __init__(self, said=None):
        super().__init__()
        self.said = None if said is None else torch.nn.Parameter(torch.tensor(float(said)))
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, c_noise, cond):
        snr = (4.0 * c_noise.double()).exp().view(-1, *[1] * (x.dim() - 1))
        alpha, sigma = (snr / (1.0 + snr)).sqrt(), (1.0 / (1.0 + snr)).sqrt()
        total = alpha**2 * SPREAD**2 + sigma**2
        # What is seen is x_t / sqrt(total); eps = sigma x_t / total.
        eps = (x.double() * sigma / total.sqrt()).to(x) * self.gain
        return eps if self.said is None else torch.cat([eps, self.said.expand_as(eps)], dim=1)


def denoiser(said=None, schedule=None):
    path = Tabulated.linear(1000) if schedule is None else schedule
    return Denoiser(Gaussian(said), path, Eps(), sigma_data=SPREAD, learned_variance=said is not None)


def draws(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("index", [2, 3, 6])
def test_the_learned_variance_has_its_optimum_at_the_true_reverse_variance(index):
    steps = 20
    x0, eps = draws(200_000)
    x0 = x0 * SPREAD
    model = denoiser(0.0)
    t = torch.full((len(x0),), index / steps, dtype=torch.float64)
    objective = Hybrid(Discrete(steps), Simple(), bound_weight=1.0, steps=steps)
    level_t, level_s = (Level.of(model.schedule, i / steps) for i in (index, index - 1))
    # x_s given x_t alone: the posterior's variance and that of x0 through its mean.
    _, gain = posterior_mean_factors(level_t, level_s)
    unknown = SPREAD**2 * level_t.sigma**2 / (level_t.alpha**2 * SPREAD**2 + level_t.sigma**2)
    true = posterior_variance(level_t, level_s) + gain**2 * unknown
    small, beta = posterior_variance(level_t, level_s), transition_variance(level_t, level_s)
    fraction = (math.log(true) - math.log(small)) / (math.log(beta) - math.log(small))
    assert 0.0 < fraction < 1.0

    def gradient(at):
        with torch.no_grad():
            model.backbone.said.fill_(2.0 * at - 1.0)
        model.zero_grad()
        objective.terms(model, x0, None, t, eps).loss.mean().backward()
        return float(model.backbone.said.grad)

    # A mean of squares over 400,000 numbers is within a hundredth of what it estimates: the optimum moves by less.
    width = math.log(beta / small)
    assert width > 0.1
    assert gradient(fraction - 0.02 / width) < 0.0 < gradient(fraction + 0.02 / width)


def test_the_bound_leaves_the_mean_alone():
    x0, eps = draws(50)
    t = torch.linspace(0.01, 0.9, 50, dtype=torch.float64)
    learned, plain = denoiser(0.3), denoiser()
    Hybrid(Discrete(), Simple(), bound_weight=5.0).terms(learned, x0, None, t, eps).loss.sum().backward()
    Objective(Discrete(), Simple()).terms(plain, x0, None, t, eps).loss.sum().backward()
    torch.testing.assert_close(learned.backbone.gain.grad, plain.backbone.gain.grad)
    assert float(learned.backbone.said.grad) != 0.0


def test_model_and_objective_must_fit():
    x0, eps = draws(3)
    t = torch.full((3,), 0.5)
    with pytest.raises(ValueError, match="does not train a learned variance"):
        Objective().terms(denoiser(0.0), x0, None, t, eps)
    with pytest.raises(ValueError, match="does not have"):
        Hybrid().terms(denoiser(), x0, None, t, eps)
    with pytest.raises(ValueError, match="does not train a learned variance"):
        Variational().terms(denoiser(0.0), x0, None, t, eps)


@pytest.mark.parametrize(("said", "fixed"), [(-1.0, DDPM()), (1.0, DDPM(large_variance=True))])
def test_sampling_with_the_ends_of_the_learned_range_is_sampling_with_fixed_variance(said, fixed):
    grid = torch.linspace(1.0, 0.0, 51, dtype=torch.float64)
    learned = sample(denoiser(said), DDPM(), grid, (4, 2), dtype=torch.float64)
    plain = sample(denoiser(), fixed, grid, (4, 2), dtype=torch.float64)
    torch.testing.assert_close(learned, plain)


def test_large_variance_asked_for_is_not_overruled():
    grid = torch.linspace(1.0, 0.0, 11, dtype=torch.float64)
    asked = sample(denoiser(-1.0), DDPM(large_variance=True), grid, (2, 2), dtype=torch.float64)
    plain = sample(denoiser(), DDPM(large_variance=True), grid, (2, 2), dtype=torch.float64)
    torch.testing.assert_close(asked, plain)


def test_guidance_keeps_the_conditional_variance():
    from kakusan.conditioning import Condition

    class Told(Gaussian):
        def forward(self, x, c_noise, cond):
            eps, said = super().forward(x, c_noise, None).chunk(2, dim=1)
            return torch.cat([eps + cond.vector, said + 0.5 * cond.vector], dim=1)

    model = Denoiser(Told(0.0), Tabulated.linear(1000), Eps(), sigma_data=SPREAD, learned_variance=True)
    cond, null = (Condition(vector=torch.full((3, 2), v)) for v in (0.4, -0.4))
    guided = ClassifierFree(3.0)(model, null)
    x = draws(3)[0]
    with torch.no_grad():
        found, wanted, free = guided(x, 0.5, cond), model(x, 0.5, cond), model(x, 0.5, null)
    torch.testing.assert_close(found.eps, free.eps + 3.0 * (wanted.eps - free.eps))
    after = Level.of(model.schedule, 0.4)
    torch.testing.assert_close(found.step_log_variance(after), wanted.step_log_variance(after))


def test_the_variational_loss_of_the_exact_denoiser_is_the_entropy():
    """-E log p of N(0, SPREAD^2) in nats/dim, from all three terms, on a schedule with an uneven interior."""
    count = 60_000
    x0, eps = draws(count, seed=1)
    x0 = x0 * SPREAD
    schedule = LearnedSchedule(high=9.0, low=-9.0, pieces=8)
    with torch.no_grad():
        schedule.rises.copy_(torch.linspace(-0.5, 0.5, 8))
    model = denoiser(schedule=schedule)
    objective = Variational(decoder=Density())
    t = objective.time_sampler.draw(schedule, 3, torch.arange(count))
    with torch.no_grad():
        loss = objective.terms(model, x0, None, t, eps).loss.double()
    entropy = 0.5 * math.log(2.0 * math.pi * math.e * SPREAD**2)
    error = float(loss.std()) / count**0.5
    assert float(loss.mean()) == pytest.approx(entropy, abs=3.0 * error)
    assert error < 0.03


def test_training_the_interior_lowers_the_variance_of_the_estimate_and_not_its_mean():
    """The optimum of the interior spreads the expected loss evenly over t."""
    schedule = LearnedSchedule(high=8.0, low=-8.0, pieces=12)
    model = denoiser(schedule=schedule)
    objective = Variational(decoder=Density())
    optimizer = torch.optim.Adam([schedule.rises], 0.05)

    def terms(number):
        x0, eps = draws(512, seed=number)
        t = objective.time_sampler.draw(schedule, 0, number * 512 + torch.arange(512))
        return objective.terms(model, x0 * SPREAD, None, t, eps)

    def by_time():
        with torch.no_grad():
            x0, eps = draws(60_000, seed=99)
            t = objective.time_sampler.draw(schedule, 1, torch.arange(60_000))
            loss = objective._evaluate(model, x0 * SPREAD, None, t, eps).terms.loss
            part = (t * 6).long().clamp(max=5)
            return loss.mean(), loss.var(), torch.stack([loss[part == i].mean() for i in range(6)])

    mean, variance, parts = by_time()
    for number in range(150):
        optimizer.zero_grad()
        terms(number).loss.mean().backward()
        optimizer.step()
    after_mean, after_variance, after_parts = by_time()
    assert float(after_mean) == pytest.approx(float(mean), rel=0.02)
    assert float(after_variance) < 0.8 * float(variance)
    assert float(after_parts.std() / after_parts.mean()) < 0.5 * float(parts.std() / parts.mean())


def test_the_ends_are_trained_by_the_bound():
    """Too little noise at t = 1 leaves the prior term large: its gradient pushes the end down."""
    schedule = LearnedSchedule(high=9.0, low=0.0)
    model = denoiser(schedule=schedule)
    x0, eps = draws(4000)
    # Data far from the prior's spread.
    x0 = 3.0 + 0.0 * x0
    objective = Variational(decoder=Density())
    objective._ends(model, x0, eps).mean().backward()
    assert float(schedule.log_range.grad) < 0.0
    assert float(schedule.rises.grad.abs().max()) < 1e-12


def test_discrete_data_are_decoded_and_others_refused():
    model = denoiser(schedule=LearnedSchedule())
    x0, eps = draws(5)
    t = torch.full((5,), 0.5, dtype=torch.float64)
    objective = Variational(decoder=Categorical(levels=17))
    with pytest.raises(ValueError, match="evenly spaced"):
        objective.terms(model, x0, None, t, eps)
    stored = (x0.clamp(-1.0, 1.0) * 8.0).round() / 8.0
    assert bool(objective.terms(model, stored, None, t, eps).loss.isfinite().all())


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_the_hybrid_loss_is_finite_over_the_whole_path_and_for_the_shortest_chain(steps):
    model = denoiser(0.2)
    x0, eps = draws(6)
    t = torch.tensor([1.0, 0.9999, 0.5, 1.0 / steps, 0.3 / steps, model.schedule.t_min], dtype=torch.float64)
    terms = Hybrid(Discrete(steps), Simple(), steps=steps).terms(model, SPREAD * x0, None, t, eps)
    assert bool(terms.loss.isfinite().all())
    terms.loss.sum().backward()
    assert bool(model.backbone.said.grad.isfinite())
