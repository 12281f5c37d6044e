"""The probability flow's density against the truth, its divergences, dequantisation, and what it refuses."""

import math

import pytest
import torch
from likelihood_laws import draws_of, lone, trefoil

from kakusan.choices import SCHEDULES
from kakusan.conditioning import Condition
from kakusan.guidance import ClassifierFree
from kakusan.likelihood import (
    Exact,
    Hutchinson,
    TruncatedNormalNoise,
    UniformNoise,
    dequantised_log_prob,
    flow_log_prob,
    flow_with_error,
)
from kakusan.oracles import GaussianMixture
from kakusan.schedules import Cosine, Karras, Rectified


def patchy(schedule):
    """A mixture on samples of shape (1, 2, 2)."""
    generator = torch.Generator().manual_seed(3)
    means = 0.7 * torch.randn(3, 1, 2, 2, generator=generator)
    return GaussianMixture(means - means.mean(0), 0.5, schedule=schedule)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_flow_of_the_exact_denoiser_states_the_density(name):
    mixture = trefoil(SCHEDULES[name])
    x = draws_of(mixture, 48)
    error = (flow_log_prob(mixture, x, num_steps=48) - mixture.log_prob(x)) / 2.0
    # Single samples also pay for the prior's shape where a schedule keeps signal at its end.
    assert float(error.abs().max()) < 3e-3
    assert abs(float(error.mean())) < 1e-3


@pytest.mark.parametrize("schedule", [Cosine(), Karras()], ids=lambda s: type(s).__name__)
def test_a_gaussian_s_flow_converges_at_fourth_order_and_says_its_error(schedule):
    gaussian, x = lone(schedule), torch.linspace(-1.2, 1.2, 7, dtype=torch.float64).view(-1, 1)
    # A model scale unlike the data's, so that the scaled flow has something to solve.
    gaussian.sigma_data = 1.0
    exact = flow_log_prob(gaussian, x, num_steps=192)
    errors = [float((flow_log_prob(gaussian, x, num_steps=n) - exact).abs().mean()) for n in (16, 32)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.7)
    found, stated = flow_with_error(gaussian, x, num_steps=32)
    assert float(stated.mean()) == pytest.approx(float((found - exact).abs().mean()), rel=0.7)


def test_hutchinson_is_unbiased_and_exact_where_the_jacobian_is_diagonal():
    mixture = patchy(Cosine())
    x = draws_of(mixture, 1).expand(400, 1, 2, 2)
    exact = float(flow_log_prob(mixture, x[:1], num_steps=12))
    found = flow_log_prob(mixture, x, num_steps=12, divergence=Hutchinson(2), seeds=range(400))
    assert float(found.std()) > 1e-3
    assert float(found.mean()) == pytest.approx(exact, abs=3.5 * float(found.std()) / 20.0)
    single = GaussianMixture(torch.zeros(1, 3), 0.4, schedule=Cosine())
    y = draws_of(single, 3)
    one = flow_log_prob(single, y, num_steps=8, divergence=Hutchinson(), seeds=range(3))
    torch.testing.assert_close(one, flow_log_prob(single, y, num_steps=8), rtol=1e-9, atol=1e-9)


def test_probes_are_signs_keyed_by_the_seed():
    like = torch.zeros(3, 2, 5)
    probes = Hutchinson(4).probes(torch.tensor([5, 6, 5]), like)
    assert probes.shape == (4, 3, 2, 5)
    assert bool((probes.abs() == 1.0).all())
    assert torch.equal(probes[:, 0], probes[:, 2])
    assert not torch.equal(probes[:, 0], probes[:, 1])
    assert Exact().probes(torch.tensor([0]), like).shape == (10, 1, 2, 5)


def test_a_sample_s_density_does_not_depend_on_its_batch():
    mixture = patchy(Rectified())
    x, seeds = draws_of(mixture, 3), [3, 2**50, -1]
    for divergence in (Exact(), Hutchinson()):
        options = {"num_steps": 6, "divergence": divergence}
        together = flow_log_prob(mixture, x, seeds=seeds, **options)
        for i in range(3):
            alone = flow_log_prob(mixture, x[i : i + 1], seeds=seeds[i : i + 1], **options)
            torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-12, atol=1e-12)


def test_single_precision_agrees():
    mixture = patchy(Cosine())
    x = draws_of(mixture, 4)
    torch.testing.assert_close(
        flow_log_prob(mixture, x.float(), num_steps=24), flow_log_prob(mixture, x, num_steps=24), rtol=0.0, atol=5e-3
    )


def test_coupled_models_have_a_flow_and_conditions_and_guidance_change_it():
    mixture = trefoil(Cosine())
    x = draws_of(mixture, 6)
    plain = flow_log_prob(mixture, x, num_steps=24)
    mixture.independent_noise = False
    assert torch.equal(flow_log_prob(mixture, x, num_steps=24), plain)
    only = Condition(vector=torch.tensor([[0.0, -60.0, -60.0]]))
    single = GaussianMixture(mixture.means[:1], 0.6, schedule=Cosine())
    torch.testing.assert_close(flow_log_prob(mixture, x, only, num_steps=64), single.log_prob(x), rtol=1e-3, atol=5e-3)
    null = Condition(vector=torch.zeros(1, 3))
    off = flow_log_prob(ClassifierFree(0.0)(mixture, null), x, only, num_steps=24)
    torch.testing.assert_close(off, plain, rtol=1e-9, atol=1e-9)
    guided = flow_log_prob(ClassifierFree(0.5)(mixture, null), x, only, num_steps=24)
    assert bool((guided - plain).abs().max() > 0.05)


def masses(mixture, log_snr, levels):
    """log of the mass of x_t / alpha in each bin at this log-SNR, for one element, by quadrature."""
    t = float(mixture.schedule.time(torch.tensor(log_snr, dtype=torch.float64)))
    alpha = float(mixture.schedule.alpha(torch.tensor(t, dtype=torch.float64)))
    half = 1.0 / (levels - 1)
    found = []
    for value in torch.linspace(-1.0, 1.0, levels, dtype=torch.float64):
        v = torch.linspace(float(value) - half, float(value) + half, 4001, dtype=torch.float64)
        density = mixture.log_prob((alpha * v).view(-1, 1), t).exp() * alpha
        found.append(float(torch.trapezoid(density, v).log()))
    return found


@pytest.mark.parametrize(
    ("noise", "std", "start"),
    [(UniformNoise(5), 0.5, 20.0), (TruncatedNormalNoise(5), 0.02, -2.0 * math.log(0.25 / 3.0))],
)
def test_dequantised_densities_bound_the_mass_of_the_bin(noise, std, start):
    # Broad data suit even noise. Data on the levels suit the truncated normal, which is what the flow starts from.
    means = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64).view(-1, 1)
    mixture = GaussianMixture(means, std, torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0]), schedule=Cosine())
    assert noise.start_log_snr(Cosine()) == pytest.approx(start, abs=1e-6)
    wanted = masses(mixture, start, 5)
    x = torch.tensor([[-0.5], [0.0]], dtype=torch.float64).repeat(24, 1)
    truth = torch.tensor([wanted[1], wanted[2]]).repeat(24)
    one = dequantised_log_prob(mixture, x, noise=noise, seeds=range(48), num_steps=24)
    many = dequantised_log_prob(mixture, x, noise=noise, seeds=range(48), num_steps=24, draws=8)
    error = float((one - truth).std()) / math.sqrt(48.0)
    assert float((one - truth).mean()) < 3.5 * error
    assert float((many - truth).mean()) == pytest.approx(0.0, abs=0.02)
    assert float((many - truth).abs().mean()) < float((one - truth).abs().mean())


def test_the_truncated_normal_is_one():
    noise = TruncatedNormalNoise(256)
    start = noise.start_log_snr(Cosine())
    assert start == pytest.approx(13.3, abs=0.05)  # what i-DODE uses for 8-bit pictures
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5).view(-1, 1) / 200_000
    offset, entropy = noise.draw(u, start)
    std = math.exp(-0.5 * start)
    assert bool((offset.abs() <= noise.half).all())
    assert bool((offset.diff(dim=0) >= 0.0).all())
    # Its distribution function at the quantiles it returns, and its density in closed form.
    normal = torch.distributions.Normal(*torch.tensor([0.0, std], dtype=torch.float64))
    edge = torch.tensor(noise.half, dtype=torch.float64)
    inside = normal.cdf(edge) - normal.cdf(-edge)
    torch.testing.assert_close((normal.cdf(offset) - normal.cdf(-edge)) / inside, u, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(entropy, -(normal.log_prob(offset) - inside.log()).sum(1), rtol=1e-9, atol=1e-9)
    # A path that never gets that clean starts where it can.
    assert TruncatedNormalNoise(256).start_log_snr(Karras()) == pytest.approx(-2.0 * math.log(0.002), abs=1e-6)


def test_what_has_no_flow_is_refused():
    mixture = trefoil(Cosine())
    x = draws_of(mixture, 2)
    for wrong, match in (
        ({"num_steps": 0}, "num_steps"),
        ({"divergence": Hutchinson()}, "give seeds"),
        ({"seeds": [1]}, "1 seeds"),
        ({"start_log_snr": 21.0}, "starts at a log-SNR"),
    ):
        with pytest.raises(ValueError, match=match):
            flow_log_prob(mixture, x, **wrong)
    with pytest.raises(ValueError, match="model units"):
        flow_log_prob(mixture, torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="evenly spaced"):
        dequantised_log_prob(mixture, x, noise=UniformNoise(17), seeds=[0, 1])
    level = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="exact divergence"):
        dequantised_log_prob(mixture, level, noise=UniformNoise(17), seeds=[0, 1], draws=2, divergence=Hutchinson())
    with pytest.raises(ValueError, match="at least 1"):
        dequantised_log_prob(mixture, level, noise=UniformNoise(17), seeds=[0, 1], draws=0)
    for make, match in (
        (lambda: Hutchinson(0), "at least one draw"),
        (lambda: TruncatedNormalNoise(17, 0.0), "positive"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
