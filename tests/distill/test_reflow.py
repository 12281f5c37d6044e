"""Reflow: pairs come again from their seeds, keep the marginals, and are kept whole on disk."""

import math

import numpy as np
import pytest
import torch

from kakusan.conditioning import Condition
from kakusan.couplings import TrainingNoise
from kakusan.data.spec import DataSpec
from kakusan.distill import PairFacts, PairFolder, Pairs, coupling_of_start, draw_pairs
from kakusan.distill.reflow import PART
from kakusan.grids import karras, uniform
from kakusan.model_folder import CorruptModel
from kakusan.oracles import GaussianMixture
from kakusan.samplers import DDIM, DDPM, DPMSolverPP, Heun, sample_iter
from kakusan.schedules import Cosine, Karras, Rectified

MEANS = torch.tensor([[-1.0], [0.5]], dtype=torch.float64)
STDS = torch.tensor([0.2, 0.4], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)


def line(schedule):
    return GaussianMixture(MEANS, STDS, WEIGHTS, schedule=schedule)


@pytest.mark.parametrize("schedule", [Rectified(), Cosine(), Karras()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("spacing", [uniform, karras])
def test_the_noise_made_again_is_what_sampling_started_from(schedule, spacing):
    denoiser, grid = line(schedule), spacing(schedule, 4)
    x0, coupling = draw_pairs(denoiser, DPMSolverPP(order=2), grid, (9, 1), seed=70, batch=9)
    again, _ = draw_pairs(denoiser, DPMSolverPP(order=2), grid, (9, 1), seed=70, batch=9)
    assert torch.equal(x0, again)
    start = next(sample_iter(denoiser, DDIM(), grid, (9, 1), seeds=70)).x_t
    chosen = torch.tensor([3, 0, 8])
    assert torch.equal(coupling.start(x0, chosen), start[chosen])
    eps = coupling.eps(x0[chosen], TrainingNoise(0, chosen, indices=chosen))
    assert torch.allclose(coupling.alpha * x0[chosen] + coupling.sigma * eps, start[chosen], rtol=1e-5, atol=1e-5)


def test_pairs_do_not_depend_on_the_batch():
    grid = uniform(Rectified(), 6)
    whole, parts = (
        draw_pairs(line(Rectified()), Heun(), grid, (10, 1), seed=5, batch=n, dtype=torch.float64)[0] for n in (10, 3)
    )
    assert torch.allclose(whole, parts, atol=1e-12)


def test_pairs_follow_their_conditions():
    towards = torch.where(torch.arange(8)[:, None] % 2 == torch.arange(2), 0.0, -1e9)
    x0, _ = draw_pairs(line(Rectified()), Heun(), uniform(Rectified(), 40), (8, 1), Condition(vector=towards), batch=3)
    assert bool((x0[1::2] > -0.3).flatten()[x0[1::2].flatten() < 0.5 + 2.0].all())
    assert float(x0[::2].mean()) < 0.0 < float(x0[1::2].mean())


def test_marginals_are_kept_and_the_map_is_monotone():
    count = 4000
    grid = uniform(Rectified(), 60)
    x0, coupling = draw_pairs(line(Rectified()), Heun(), grid, (count, 1), batch=count, dtype=torch.float64)
    start = coupling.start(x0, torch.arange(count)).flatten()
    # A flow on the line keeps the order: its curves cannot cross.
    assert bool((x0.flatten()[start.argsort()].diff() > 0.0).all())
    # Kolmogorov-Smirnov: sqrt(n) D exceeds 1.95 once in 1000; the solver's own error is below 1e-3.
    drawn = x0.flatten().sort().values
    cdf = (torch.special.ndtr((drawn[:, None] - MEANS.flatten()) / STDS) * WEIGHTS).sum(1)
    steps = torch.arange(1, count + 1, dtype=torch.float64) / count
    assert float((cdf - steps).abs().max()) < 1.95 / math.sqrt(count) + 2e-3


def test_stochastic_samplers_and_rising_grids_make_no_pairs():
    with pytest.raises(ValueError, match="fresh noise"):
        draw_pairs(line(Rectified()), DDPM(), uniform(Rectified(), 4), (2, 1))
    with pytest.raises(ValueError, match="falling"):
        draw_pairs(line(Rectified()), DDIM(), uniform(Rectified(), 4).flip(0)[1:], (2, 1))


def facts(count=600, **more):
    data = DataSpec(channels=1, size=(2, 2), mean=(0.0,), std=(0.5,), mode="L", classes=("a", "b"), flip=True)
    coupling = coupling_of_start(line(Rectified()), uniform(Rectified(), 4), seed=11)
    return PairFacts(
        **{"model": "hash", "request": {"num_steps": 4}, "coupling": coupling, "data": data, "count": count} | more
    )


def fill(folder, leave=0):
    for places in folder.missing()[: len(folder.missing()) - leave]:
        numbers = torch.tensor(places)
        folder.write(places, (numbers % 256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), numbers % 2)


def test_a_folder_of_pairs_is_filled_in_parts_and_read_in_order(tmp_path):
    folder = PairFolder(tmp_path / "pairs")
    assert not folder.exists()
    folder.begin(facts())
    assert [len(places) for places in folder.missing()] == [PART, PART, 600 - 2 * PART]
    fill(folder, leave=1)
    with pytest.raises(ValueError, match=f"{600 - 2 * PART} of 600"):
        folder.open()
    folder.begin(facts())
    fill(folder)
    pairs = folder.open()
    assert pairs.read(range(600)).flatten(1)[:, 0].tolist() == [i % 256 for i in range(600)]
    assert pairs.labels.tolist() == [i % 2 for i in range(600)]
    assert pairs.coupling == facts().coupling
    assert not pairs.spec.flip
    assert folder.facts() == facts()


def test_held_out_pairs_keep_their_own_noise(tmp_path):
    folder = PairFolder(tmp_path)
    folder.begin(facts())
    fill(folder)
    whole = folder.open()
    kept, held_out = whole.split(0.1)
    assert (len(kept), len(held_out)) == (540, 60)
    x0 = torch.zeros(1, 1, 2, 2)
    for part, place in ((kept, 7), (held_out, 547)):
        index = torch.tensor([place - (540 if part is held_out else 0)])
        assert torch.equal(part.read(index), whole.read([place]))
        assert torch.equal(part.coupling.start(x0, index), whole.coupling.start(x0, torch.tensor([place])))
    assert len({whole.fingerprint, kept.fingerprint, held_out.fingerprint}) == 3
    with pytest.raises(ValueError, match="fraction"):
        whole.split(1.0)


def test_the_fingerprint_knows_the_noise(tmp_path):
    stored = np.zeros((3, 1, 2, 2), np.uint8)
    one, other = (
        facts().coupling,
        facts(coupling=coupling_of_start(line(Cosine()), karras(Cosine(), 4), seed=12)).coupling,
    )
    assert (
        Pairs(facts().data, stored, coupling=one).fingerprint != Pairs(facts().data, stored, coupling=other).fingerprint
    )


@pytest.mark.parametrize("change", [{"count": 601}, {"model": "other"}, {"request": {"num_steps": 5}}])
def test_pairs_drawn_otherwise_are_not_mixed(tmp_path, change):
    folder = PairFolder(tmp_path)
    folder.begin(facts())
    with pytest.raises(ValueError, match=next(iter(change))):
        folder.begin(facts(**change))


@pytest.mark.parametrize("damage", [b"", b"\x80\x04pickle", b"PK\x03\x04", None])
def test_damaged_parts_are_named(tmp_path, damage):
    folder = PairFolder(tmp_path)
    folder.begin(facts(count=3))
    fill(folder)
    path = next(tmp_path.glob("part-*"))
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    with pytest.raises(CorruptModel, match=path.name):
        folder.open()


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[1]"])
def test_damaged_facts_are_named(tmp_path, text):
    (tmp_path / "pairs.json").write_text(text)
    with pytest.raises(CorruptModel, match="pairs.json"):
        PairFolder(tmp_path).facts()


# Liu et al. 2022 (arXiv 2209.03003, section 3): rectifying a coupling keeps both its marginals and raises the mean of
# no convex cost of x1 - x0, if the velocity is exact. Where a measured cost rises, velocity or solver are not.

COSTS = {
    "squared": lambda way: way.square().sum(1),
    "length": lambda way: way.norm(dim=1),
    "fourth power": lambda way: way.square().sum(1).square(),
    "one side": lambda way: way[:, 0].clamp_min(0.0),
}


class JoinedGaussians:
    """Pairs (x0, x1) in the plane, a mixture of joint Gaussians: x1 | x0 = turn x0 + noise; exact velocity of each."""

    def __init__(self, means, std, turns, noise):
        self.means, self.std, self.turns, self.noise = means, std, turns, noise

    def draw(self, count, generator):
        chosen = torch.randint(len(self.means), (count,), generator=generator)
        away = self.std * torch.randn(count, 2, generator=generator, dtype=torch.float64)
        x0 = self.means[chosen] + away
        fresh = self.noise * torch.randn(count, 2, generator=generator, dtype=torch.float64)
        return x0, (self.turns[chosen] @ x0.unsqueeze(2)).squeeze(2) + fresh

    def velocity(self, x, t):
        """E[x1 - x0 | x_t = x] for x (B, 2), x_t = (1 - t) x0 + t x1."""
        eye = torch.eye(2, dtype=torch.float64)
        carried = (1.0 - t) * eye + t * self.turns
        spread = self.std**2 * carried @ carried.mT + (t * self.noise) ** 2 * eye
        offset = x.unsqueeze(1) - (carried @ self.means.unsqueeze(2)).squeeze(2)
        solved = torch.linalg.solve(spread.unsqueeze(0), offset.unsqueeze(3)).squeeze(3)
        log_weight = -0.5 * (offset * solved).sum(2) - 0.5 * torch.logdet(spread)
        way = self.turns - eye
        together = self.std**2 * way @ carried.mT + t * self.noise**2 * eye
        mean = (way @ self.means.unsqueeze(2)).squeeze(2) + (together @ solved.unsqueeze(3)).squeeze(3)
        return (log_weight.softmax(1).unsqueeze(2) * mean).sum(1)

    def rectified(self, x, steps=40):
        """Where the exact flow takes x0 (B, 2), by the classical fourth-order rule."""
        h = 1.0 / steps
        for k in range(steps):
            t = k * h
            a = self.velocity(x, t)
            b = self.velocity(x + 0.5 * h * a, t + 0.5 * h)
            c = self.velocity(x + 0.5 * h * b, t + 0.5 * h)
            x = x + h / 6.0 * (a + 2.0 * b + 2.0 * c + self.velocity(x + h * c, t + h))
        return x


def turn(*angles):
    return torch.tensor(
        [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles], dtype=torch.float64
    )


@pytest.mark.parametrize(("angles", "noise"), [((0.0, 0.0, 0.0), 1.0), ((1.2, -0.9, 2.2), 0.4), ((2.6, 2.6, 2.6), 0.3)])
def test_rectifying_by_the_exact_velocity_raises_no_convex_cost(angles, noise):
    means = torch.tensor([[1.5, 0.0], [-0.8, 1.2], [-0.6, -1.4]], dtype=torch.float64)
    pairs = JoinedGaussians(means, 0.3, turn(*angles), noise)
    x0, x1 = pairs.draw(1500, torch.Generator().manual_seed(5))
    # The same x0 in both couplings: the difference is far less noisy than the costs.
    before, after = x1 - x0, pairs.rectified(x0) - x0
    for name, cost in COSTS.items():
        change = cost(after) - cost(before)
        error = float(change.std()) / math.sqrt(len(change))
        assert float(change.mean()) < 3.0 * error, name
        if name == "squared" and any(angles):
            # Crossing paths are untangled, which must pay.
            assert float(change.mean()) < -5.0 * error
    # Both couplings end in the same distribution: first and second moments of x1 and of a wave.
    for moment in (lambda x: x[:, 0], lambda x: x[:, 1].square(), lambda x: x[:, 0] * x[:, 1], lambda x: x.sin()[:, 0]):
        found, expected = moment(x0 + after), moment(x1)
        error = float((found.var() + expected.var()) / len(x0)) ** 0.5
        assert abs(float(found.mean() - expected.mean())) < 4.0 * error


def test_on_the_line_the_exact_flow_is_optimal_so_reflow_has_nothing_to_lower():
    # The monotone map is optimal for every convex cost of the difference, and no second coupling is cheaper.
    count = 400
    x0, coupling = draw_pairs(
        line(Rectified()), DPMSolverPP(2), uniform(Rectified(), 400), (count, 1), batch=count, dtype=torch.float64
    )
    start = coupling.start(x0, torch.arange(count)).flatten()
    ends, wanted = x0.flatten(), torch.special.ndtr(start)
    low, high = torch.full_like(start, -4.0), torch.full_like(start, 4.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = (torch.special.ndtr((middle[:, None] - MEANS.flatten()) / STDS) * WEIGHTS).sum(1) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    best = (low - start).square().mean()
    assert float((ends - start).square().mean()) == pytest.approx(float(best), rel=2e-3)


def test_in_the_plane_lines_of_exact_pairs_do_not_cross():
    # (1 - t) (a - b) + t (T(a) - T(b)) = 0 needs <T(a) - T(b), a - b> < 0: where that never happens the second
    # rectification is the first, and a change of its cost would be the network's or the solver's.
    angle = 0.25 * math.pi * torch.arange(8)
    ring = GaussianMixture(2.0 * torch.stack([angle.cos(), angle.sin()], 1), 0.2, schedule=Rectified())
    x0, coupling = draw_pairs(ring, DPMSolverPP(2), uniform(Rectified(), 60), (600, 2), batch=600, dtype=torch.float64)
    start = coupling.start(x0, torch.arange(600))
    along = ((start - start[:, None]) * (x0 - x0[:, None])).sum(2)
    assert float(along.min()) > -1e-3
