"""Rules of mixing, thresholding, and guidance by weaker models: what each is, and where it is plain guidance again."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan import grids
from kakusan.conditioning import Condition
from kakusan.denoiser import Denoiser
from kakusan.guidance import (
    AutoGuidance,
    ClassifierFree,
    ClassifierGuidance,
    DynamicThresholding,
    PerturbedAttention,
    PlusPlus,
    Projected,
    StaticThresholding,
    ZeroStar,
)
from kakusan.levels import Level, tabulate
from kakusan.nn import DiT, MagnitudePreservingUNet, UNet
from kakusan.oracles import GaussianMixture
from kakusan.parameterizations import X0, Edm, Eps, V, Velocity
from kakusan.samplers import DDIM, Heun, sample
from kakusan.schedule_wrappers import ZeroTerminalSnr
from kakusan.schedules import Cosine, Karras, Rectified

WANTED = Condition(vector=torch.tensor([[0.0, -2.0, -4.0]]))
OTHER = Condition(vector=torch.tensor([[-4.0, -1.0, 0.0]]))
NULL = Condition(vector=torch.zeros(1, 3))
X = torch.randn(4, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
reals = st.floats(-20.0, 20.0)


class Network(torch.nn.Module):
    """Something that depends on everything, with any meaning of its output."""

    def forward(self, x, c_noise, cond):
        shift = cond.vector.sum(1).to(x).view(-1, *[1] * (x.dim() - 1))
        return torch.tanh(x + 0.3 * shift) * (1.0 + 0.1 * shift)


def oracle(schedule=None, seed=3):
    means = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(seed))
    return GaussianMixture(means, 0.4, schedule=Cosine() if schedule is None else schedule)


DENOISERS = {
    "oracle": oracle,
    **{
        type(row).__name__: (lambda row=row: Denoiser(Network(), Rectified(), row))
        for row in (X0(), Eps(), V(), Velocity(), Edm(sigma_data=0.5))
    },
}
everywhere = pytest.mark.parametrize("make", DENOISERS.values(), ids=DENOISERS.keys())


def both(denoiser, t):
    return denoiser(X, t, WANTED.expand(4)), denoiser(X, t, NULL.expand(4))


@everywhere
@given(scale=reals, t=st.floats(0.05, 0.9))
def test_projection_with_nothing_weighed_down_is_plain_guidance(make, scale, t):
    denoiser = make()
    rule = Projected(parallel=1.0, momentum=0.0)
    found = ClassifierFree(scale, rule=rule)(denoiser, NULL)(X, t, WANTED)
    expected = ClassifierFree(scale)(denoiser, NULL)(X, t, WANTED)
    torch.testing.assert_close(found.x0, expected.x0, rtol=1e-6, atol=1e-6)


@everywhere
def test_projection_removes_what_lies_along_the_stronger_x0(make):
    denoiser, t = make(), 0.5
    strong, weak = both(denoiser, t)
    found = ClassifierFree(3.0, rule=Projected(momentum=0.0))(denoiser, NULL)(X, t, WANTED)
    change = (found.x0 - strong.x0).flatten(1)
    along = strong.x0.flatten(1)
    torch.testing.assert_close((change * along).sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0.0)
    difference = (strong.x0 - weak.x0).flatten(1)
    across = difference - (difference * along).sum(1, keepdim=True) / (along * along).sum(1, keepdim=True) * along
    torch.testing.assert_close(change, 2.0 * across)


@given(limit=st.floats(0.01, 1.0))
def test_projection_limits_the_size_of_the_difference(limit):
    denoiser, t = oracle(), 0.5
    strong, weak = both(denoiser, t)
    rule = Projected(parallel=1.0, momentum=0.0, limit=limit)
    change = ClassifierFree(2.0, rule=rule)(denoiser, NULL)(X, t, WANTED).x0 - strong.x0
    size, free = (v.flatten(1).square().mean(1).sqrt() for v in (change, strong.x0 - weak.x0))
    torch.testing.assert_close(size, free.clamp_max(limit))


def test_projection_remembers_the_last_difference_and_forgets_it_with_the_run():
    denoiser = oracle()
    guided = ClassifierFree(2.0, rule=Projected(parallel=1.0, momentum=-0.5))(denoiser, NULL)
    first, second = (both(denoiser, t) for t in (0.6, 0.5))
    d1, d2 = (strong.x0 - weak.x0 for strong, weak in (first, second))
    torch.testing.assert_close(guided(X, 0.6, WANTED).x0, first[0].x0 + d1)
    torch.testing.assert_close(guided(X, 0.5, WANTED).x0, second[0].x0 + d2 - 0.5 * d1)
    guided.forget()
    torch.testing.assert_close(guided(X, 0.5, WANTED).x0, second[0].x0 + d2)
    # The loop forgets by itself: a second run is the first one again.
    grid = grids.uniform(Cosine(), 5)
    runs = [sample(guided, DDIM(), grid, (3, 2, 5), WANTED) for _ in range(2)]
    assert torch.equal(*runs)


@everywhere
@given(scale=reals, t=st.floats(0.05, 0.9))
def test_zero_star_scales_the_weaker_velocity_to_fit(make, scale, t):
    denoiser = make()
    strong, weak = both(denoiser, t)
    found = ClassifierFree(scale, rule=ZeroStar(still_above=1.0))(denoiser, NULL)(X, t, WANTED).velocity
    fit = (strong.velocity * weak.velocity).flatten(1).sum(1) / weak.velocity.square().flatten(1).sum(1)
    free = fit.view(-1, 1, 1) * weak.velocity
    torch.testing.assert_close(found, free + scale * (strong.velocity - free), rtol=1e-5, atol=1e-5)
    # Nothing smaller is left over: the fit is the best one.
    residual = ((strong.velocity - free) * weak.velocity).flatten(1).sum(1)
    torch.testing.assert_close(residual, torch.zeros_like(residual), atol=1e-8, rtol=0.0)


def test_zero_star_stands_still_at_first():
    denoiser = oracle(Rectified())
    guided = ClassifierFree(3.0, rule=ZeroStar(still_above=0.9))(denoiser, NULL)
    level = 0.95
    assert float(guided(X, level, WANTED).velocity.abs().max()) < 1e-12
    x_s, _ = DDIM().step(guided, X, *tabulate(Rectified(), torch.tensor([0.95, 0.92])), WANTED, _state(), None)
    torch.testing.assert_close(x_s, X)
    assert float(guided(X, 0.5, WANTED).velocity.abs().max()) > 0.1


def _state():
    from kakusan.samplers.base import State

    return State(4)


@pytest.mark.parametrize("schedule", [Cosine(), Rectified(), Karras()], ids=lambda s: type(s).__name__)
@given(scale=st.floats(0.0, 1.5))
def test_cfg_plus_plus_noises_again_with_the_weaker_eps(schedule, scale):
    denoiser = oracle(schedule)
    levels = tabulate(schedule, grids.log_snr(schedule, 6))
    guided = ClassifierFree(scale, rule=PlusPlus().on(levels))(denoiser, NULL)
    for level_t, level_s in itertools.pairwise(levels):
        x_t = X * (level_t.alpha**2 + level_t.sigma**2) ** 0.5
        found, _ = DDIM().step(guided, x_t, level_t, level_s, WANTED.expand(4), _state(), None)
        strong, weak = denoiser(x_t, level_t, WANTED.expand(4)), denoiser(x_t, level_t, NULL.expand(4))
        x0 = weak.x0 + scale * (strong.x0 - weak.x0)
        torch.testing.assert_close(found, level_s.alpha * x0 + level_s.sigma * weak.eps, rtol=1e-6, atol=1e-6)


def test_cfg_plus_plus_refuses_other_levels_and_rising_grids():
    denoiser = oracle()
    levels = tabulate(Cosine(), grids.log_snr(Cosine(), 6))
    guided = ClassifierFree(0.5, rule=PlusPlus().on(levels))(denoiser, NULL)
    with pytest.raises(ValueError, match="one grid only"):
        guided(X, 0.123, WANTED)
    with pytest.raises(ValueError, match="one grid only"):
        ClassifierFree(0.5, rule=PlusPlus())(denoiser, NULL)(X, 0.5, WANTED)
    with pytest.raises(ValueError, match="a grid that falls"):
        PlusPlus().on(levels[::-1])


@everywhere
@given(weights=st.tuples(reals, reals), scale=reals)
def test_a_mixture_follows_the_weighted_mean_of_its_conditions(make, weights, scale):
    denoiser, t = make(), 0.5
    guided = ClassifierFree(scale)(denoiser, NULL, mixture=[(weights[0], OTHER), (weights[1], NULL)])
    wanted, free = both(denoiser, t)
    other = denoiser(X, t, OTHER.expand(4))
    mean = wanted.x0 + weights[0] * (other.x0 - wanted.x0) + weights[1] * (free.x0 - wanted.x0)
    torch.testing.assert_close(guided(X, t, WANTED).x0, free.x0 + scale * (mean - free.x0), rtol=1e-5, atol=1e-5)


@given(scale=reals)
def test_a_negative_condition_takes_the_place_of_none(scale):
    denoiser = oracle()
    found = ClassifierFree(scale)(denoiser, OTHER)(X, 0.5, WANTED).x0
    wanted, away = denoiser(X, 0.5, WANTED.expand(4)).x0, denoiser(X, 0.5, OTHER.expand(4)).x0
    torch.testing.assert_close(found, away + scale * (wanted - away), rtol=1e-6, atol=1e-6)


@everywhere
@given(scale=reals, t=st.floats(0.05, 0.9))
def test_autoguidance_leads_away_from_the_weaker_model(make, scale, t):
    denoiser = make()
    # A model on another schedule, and with another meaning of its output, brought to the same x_t.
    weaker = Denoiser(Network(), Karras(), Edm(sigma_data=0.5))
    found = AutoGuidance(scale)(denoiser, weaker)(X, t, WANTED.expand(4)).x0
    good = denoiser(X, t, WANTED.expand(4)).x0
    bad = weaker.with_schedule(denoiser.schedule)(X, t, WANTED.expand(4)).x0
    torch.testing.assert_close(found, bad + scale * (good - bad), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        lambda: UNet.for_data(2, (8, 8), width=16, condition_width=3, attention_levels=(0, 1)),
        lambda: DiT.for_data(2, (8, 8), width=16, depth=2, patch=2, condition_width=3),
        lambda: MagnitudePreservingUNet.for_data(2, (8, 8), width=16, condition_width=3, attention_levels=(0, 1)),
    ],
    ids=["unet", "dit", "edm2"],
)
def test_perturbed_attention_shares_weights_and_leaves_the_network_alone(network):
    torch.manual_seed(0)
    backbone = network()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    denoiser = Denoiser(backbone.eval(), Cosine(), V())
    x = torch.randn(2, 2, 8, 8)
    cond = Condition(vector=torch.randn(2, 3))
    with torch.no_grad():
        plain = denoiser(x, 0.5, cond).x0
        guided = PerturbedAttention(2.0)(denoiser)
        assert {id(p) for p in guided.parameters()} == {id(p) for p in denoiser.parameters()}
        worse = PerturbedAttention(0.0)(denoiser)(x, 0.5, cond).x0
        found = guided(x, 0.5, cond).x0
        assert torch.equal(denoiser(x, 0.5, cond).x0, plain)
    assert not torch.allclose(worse, plain, atol=1e-4)
    torch.testing.assert_close(found, worse + 2.0 * (plain - worse), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="no self-attention layer 99"):
        PerturbedAttention(2.0, layers=(99,))(denoiser)


def test_a_network_without_attention_cannot_be_perturbed():
    with pytest.raises(ValueError, match="no self-attention"):
        PerturbedAttention(2.0)(Denoiser(Network(), Cosine(), V()))


@everywhere
def test_classifier_guidance_with_the_exact_classifier_is_the_conditional_model(make):
    # Bayes: grad log p(c | x_t) = grad log p(x_t | c) - grad log p(x_t), known for the mixture.
    prior = oracle()

    class Exact:
        def log_probabilities(self, x_t, level):
            return prior._components(x_t, level.alpha, level.sigma, None)[0].log_softmax(1)

    labels, t = torch.tensor([0, 1, 2, 0]), 0.4
    found = ClassifierGuidance(1.0)(prior, Exact(), labels)(X, t)
    alone = torch.full((4, 3), -torch.inf).scatter(1, labels.unsqueeze(1), 0.0)
    expected = prior(X, t, Condition(vector=alone))
    torch.testing.assert_close(found.x0, expected.x0, rtol=1e-6, atol=1e-6)
    # On any other model it moves eps by -scale sigma gradient.
    denoiser = make()
    guided = ClassifierGuidance(2.5, (0.3, 0.6))(denoiser, Exact(), labels)
    level = Level.of(denoiser.schedule, t)
    moved = guided(X, t, WANTED.expand(4)).eps - denoiser(X, t, WANTED.expand(4)).eps
    torch.testing.assert_close(moved, -2.5 * level.sigma * guided.gradient(X, level), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(guided(X, 0.7, WANTED.expand(4)).x0, denoiser(X, 0.7, WANTED.expand(4)).x0)


@everywhere
@given(quantile=st.floats(0.3, 1.0), bound=st.floats(0.05, 2.0))
def test_thresholding_keeps_x0_in_range_and_eps_consistent(make, quantile, bound):
    denoiser, t = make(), 0.6
    level = Level.of(denoiser.schedule, t)
    plain = denoiser(X, t, WANTED.expand(4)).x0
    for rule in (DynamicThresholding(quantile, bound), StaticThresholding(bound)):
        found = rule(denoiser)(X, t, WANTED.expand(4))
        assert float(found.x0.abs().max()) <= bound * (1.0 + 1e-6)
        torch.testing.assert_close(level.alpha * found.x0 + level.sigma * found.eps, X)
        inside = plain.flatten(1).abs().amax(1) <= bound
        torch.testing.assert_close(found.x0[inside], plain[inside], rtol=1e-6, atol=1e-7)
    # By hand: clamp at the quantile, divide by it.
    found = DynamicThresholding(quantile, bound).keep(plain)
    for x, y in zip(plain, found, strict=True):
        rank = sorted(x.abs().flatten().tolist())[round(quantile * (x.numel() - 1))]
        reach = max(rank, bound)
        torch.testing.assert_close(y, x.clamp(-reach, reach) * bound / reach)


def test_guidance_composes():
    denoiser = oracle()
    guided = DynamicThresholding()(
        AutoGuidance(2.0)(ClassifierFree(3.0, rule=Projected())(denoiser, NULL), oracle(seed=8))
    )
    out = sample(guided, Heun(), grids.uniform(Cosine(), 6), (3, 2, 5), WANTED)
    assert torch.isfinite(out).all()


@given(phi=st.lists(st.floats(-2.0, 2.0), min_size=4, max_size=4), scale=reals)
def test_a_rescale_for_each_sample(phi, scale):
    denoiser = oracle()
    together = ClassifierFree(scale, rescale=torch.tensor(phi))(denoiser, NULL)(X, 0.5, WANTED).x0
    for i, each in enumerate(torch.tensor(phi).tolist()):
        alone = ClassifierFree(scale, rescale=each)(denoiser, NULL)(X[i : i + 1], 0.5, WANTED).x0
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Projected(momentum=1.0),
        lambda: Projected(limit=0.0),
        lambda: DynamicThresholding(quantile=0.0),
        lambda: DynamicThresholding(bound=-1.0),
        lambda: StaticThresholding(bound=0.0),
        lambda: ClassifierGuidance(scale=math.inf),
        lambda: ClassifierGuidance(interval=(0.6, 0.3)),
        lambda: ClassifierFree(2.0)(oracle(), NULL, mixture=[(math.nan, OTHER)]),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_a_sample_of_one_element_has_no_spread_to_rescale():
    x = torch.randn(3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    prior = GaussianMixture(torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1), 0.3, schedule=Cosine())
    free, with_phi = (ClassifierFree(2.0, rescale=phi)(prior, NULL)(x, 0.5, WANTED).x0 for phi in (0.0, 0.7))
    assert torch.equal(free, with_phi)


def test_a_classifier_is_not_asked_where_nothing_is_left_of_the_sample():
    class Never:
        def log_probabilities(self, x_t, level):
            raise AssertionError("asked at alpha = 0")

    denoiser = Denoiser(Network(), ZeroTerminalSnr(Cosine()), V())
    guided = ClassifierGuidance(2.0)(denoiser, Never(), torch.tensor([0]))
    assert torch.equal(guided(X, 1.0, WANTED.expand(4)).x0, denoiser(X, 1.0, WANTED.expand(4)).x0)
