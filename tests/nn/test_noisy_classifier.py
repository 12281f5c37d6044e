"""The network that tells classes of noisy samples: any rank, any schedule, differentiable, described in json."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.guidance import NoisyClassifier
from kakusan.levels import Level
from kakusan.nn.noisy_classifier import NoisyConvNet
from kakusan.schedules import Cosine, Karras, Rectified
from kakusan.specs import from_spec, to_spec


def network(size: tuple[int, ...] = (8, 8), channels: int = 2, classes: int = 3) -> NoisyConvNet:
    """With shaken weights, so that every input matters."""
    torch.manual_seed(1)
    made = NoisyConvNet.for_data(channels, size, classes, sigma_data=0.7, width=8)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


@pytest.mark.parametrize("size", [(1,), (9,), (8, 8), (5, 12), (17, 16), (4, 5, 6)])
def test_any_size_and_rank(size: tuple[int, ...]) -> None:
    x = torch.randn(4, 2, *size)
    for dtype in (torch.float32, torch.float64):
        found = network(size).log_probabilities(x.to(dtype), Level.of(Cosine(), 0.3))
        assert found.shape == (4, 3)
        assert found.dtype == dtype
        torch.testing.assert_close(found.exp().sum(1), torch.ones(4, dtype=dtype))


def test_a_fresh_one_finds_all_classes_equally_likely() -> None:
    fresh = NoisyConvNet.for_data(1, (8, 8), 4, sigma_data=0.5)
    found: NoisyClassifier = fresh
    log_p = found.log_probabilities(torch.randn(3, 1, 8, 8), Level.of(Cosine(), 0.5))
    torch.testing.assert_close(log_p.exp(), torch.full((3, 4), 0.25))


@given(log_snr=st.floats(-8.0, 8.0))
def test_only_the_log_snr_and_the_scaled_sample_matter(log_snr: float) -> None:
    made, x = network(), torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    found = []
    for schedule in (Cosine(), Rectified(), Karras()):
        level = Level.of(schedule, float(schedule.time(torch.tensor(log_snr, dtype=torch.float64))))
        size = (level.alpha**2 + level.sigma**2) ** 0.5
        found.append(made.log_probabilities(x * size, level))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-4)


def test_the_noise_level_and_the_sample_are_seen() -> None:
    made, x = network(), torch.randn(2, 2, 8, 8)
    first, second = (made(x, torch.tensor([c])) for c in (-1.0, 1.0))
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(first[0], first[1], atol=1e-3)


def test_samples_at_different_times_are_told_as_each_alone() -> None:
    made, x, t = network(), torch.randn(3, 2, 8, 8), torch.tensor([0.2, 0.5, 0.9])
    together = made.log_probabilities(x, Level.of(Cosine(), t, x))
    for i in range(3):
        alone = made.log_probabilities(x[i : i + 1], Level.of(Cosine(), float(t[i])))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_difference_quotient() -> None:
    made, level = network(), Level.of(Cosine(), 0.4)
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    made.log_probabilities(x, level)[0, 1].backward()
    way, small = x.grad.clone(), 3e-3
    with torch.no_grad():
        ahead, behind = (made.log_probabilities(x + s * way, level)[0, 1] for s in (small, -small))
    torch.testing.assert_close((x.grad * way).sum(), (ahead - behind) / (2 * small), rtol=1e-2, atol=1e-5)


def test_json_describes_it() -> None:
    made = network((9,), channels=1, classes=5)
    built = from_spec(json.loads(json.dumps(to_spec(made))), NoisyConvNet)
    built.load_state_dict(made.state_dict())
    x = torch.randn(2, 1, 9)
    assert torch.equal(built.eval()(x, torch.zeros(1)), made(x, torch.zeros(1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "at least two classes"),
        ({"sigma_data": 0.0}, "sigma_data"),
        ({"rank": 4}, "rank"),
        ({"width": 0}, "width"),
        ({"multipliers": ()}, "multipliers"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoisyConvNet(**{"channels": 1, "classes": 3, **arguments})
    with pytest.raises(ValueError, match="this classifier takes"):
        network()(torch.zeros(1, 3, 8, 8), torch.zeros(1))
