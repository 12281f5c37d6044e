"""Weight averages: exact at the start, constant on constants, as wide as they say."""

import pytest
import torch
from torch import nn

from kakusan.train.ema import Ema, EmaProfile


def track(values: torch.Tensor, profiles: dict[str, EmaProfile]) -> tuple[nn.Linear, Ema]:
    """An average over a parameter that takes these values, one after the other."""
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    ema = Ema(module, profiles)
    for value in values:
        module.weight.data.fill_(float(value))
        ema.update()
    return module, ema


def test_the_first_update_is_the_weights_themselves() -> None:
    module, ema = track(torch.tensor([3.7]), {"a": EmaProfile(0.1)})
    assert torch.equal(ema.averages["a"]["weight"], module.weight)


def test_constant_weights_stay_constant() -> None:
    module = nn.Linear(3, 3)
    before = module.weight.detach().clone()
    ema = Ema(module, {"a": EmaProfile(0.05), "b": EmaProfile(0.2)})
    for _ in range(200):
        ema.update()
    for average in ema.averages.values():
        torch.testing.assert_close(average["weight"], before, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2, 0.25])
def test_the_window_is_as_wide_as_it_says(width: float) -> None:
    count = 4000
    profile = EmaProfile(width)
    keep = torch.tensor([profile.keep(n) for n in range(1, count + 1)], dtype=torch.float64)
    # The share of update n in the last average: what entered with it, times what all later ones kept.
    later = torch.cat([keep.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.float64)])
    share = (1.0 - keep) * later
    assert float(share.sum()) == pytest.approx(1.0, abs=1e-9)
    time = torch.arange(1, count + 1, dtype=torch.float64) / count
    mean = float((share * time).sum())
    std = float((share * (time - mean) ** 2).sum() ** 0.5)
    assert std == pytest.approx(width, rel=2e-3)
    # And the object does what its `keep` says.
    _, ema = track(time, {"a": profile})
    assert float(ema.averages["a"]["weight"]) == pytest.approx(mean, rel=1e-9)


def test_profiles_have_names_and_differ() -> None:
    _, ema = track(torch.arange(100.0), {"short": EmaProfile(0.05), "long": EmaProfile(0.2)})
    assert float(ema.averages["short"]["weight"]) > float(ema.averages["long"]["weight"])


def test_saved_averages_continue() -> None:
    values = torch.linspace(0, 1, 30).square()
    _, whole = track(values, {"a": EmaProfile(0.1)})
    _, first = track(values[:13], {"a": EmaProfile(0.1)})
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    second = Ema(module, {"a": EmaProfile(0.1)})
    second.load(first.averages, first.updates)
    for value in values[13:]:
        module.weight.data.fill_(float(value))
        second.update()
    assert torch.equal(second.averages["a"]["weight"], whole.averages["a"]["weight"])


@pytest.mark.parametrize("width", [0.0, 0.28, 1.0, -0.1, float("nan")])
def test_impossible_widths_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 0.28"):
        EmaProfile(width)
