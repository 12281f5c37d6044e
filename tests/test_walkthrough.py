"""The walkthrough runs, learns, and its mathematics agrees with cases known in closed form."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "walkthrough.py"


@pytest.fixture(scope="module")
def walkthrough() -> ModuleType:
    spec = importlib.util.spec_from_file_location("walkthrough", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Exact(torch.nn.Module):
    """The best possible v for data N(mean[label], spread^2): E[x0 | x_t] in closed form, turned into v."""

    def __init__(self, walkthrough: ModuleType, mean: Tensor, spread: float) -> None:
        super().__init__()
        self.walkthrough, self.mean, self.spread, self.null = walkthrough, mean, spread, len(mean) - 1

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        alpha, sigma = self.walkthrough.alpha_sigma(t)
        mean = self.mean[label].view(-1, 1, 1, 1)
        gain = alpha * self.spread**2 / (alpha**2 * self.spread**2 + sigma**2)
        x0 = mean + gain * (x - alpha * mean)
        return (alpha * x - x0) / sigma.clamp(min=1e-12)


def test_it_is_short_enough_to_read() -> None:
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 200


def test_x0_and_eps_can_be_read_off_x_t_and_v(walkthrough: ModuleType) -> None:
    x0, eps = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    x_t, v = walkthrough.add_noise(x0, eps, t), walkthrough.target(x0, eps, t)
    alpha, sigma = walkthrough.alpha_sigma(t)
    torch.testing.assert_close(alpha * x_t - sigma * v, x0)
    torch.testing.assert_close(sigma * x_t + alpha * v, eps)
    torch.testing.assert_close(x_t[0], x0[0])
    torch.testing.assert_close(x_t[-1], eps[-1])


def test_the_sampler_turns_noise_into_the_data(walkthrough: ModuleType) -> None:
    """Data N(0, 0.2^2): the exact flow multiplies the noise by 0.2, whatever the noise."""
    exact = Exact(walkthrough, torch.zeros(2), spread=0.2)
    eps = torch.randn(4, 3, 8, 8)
    x, _ = list(walkthrough.sample(exact, eps, torch.zeros(4, dtype=torch.long), steps=400))[-1]
    torch.testing.assert_close(x, 0.2 * eps, rtol=0.02, atol=1e-3)


def test_guidance_goes_where_the_class_points(walkthrough: ModuleType) -> None:
    """Two classes and "no class" are single points here, so each guidance scale has one answer."""
    exact = Exact(walkthrough, torch.tensor([-0.4, 0.3, 0.1]), spread=0.0)
    label = torch.tensor([0, 1])
    for scale, expected in ((0.0, (0.1, 0.1)), (1.0, (-0.4, 0.3)), (2.0, (-0.9, 0.5)), (9.0, (-1.0, 1.0))):
        x, _ = list(walkthrough.sample(exact, torch.randn(2, 3, 4, 4), label, steps=5, guidance=scale))[-1]
        torch.testing.assert_close(x.mean(dim=(1, 2, 3)), torch.tensor(expected), rtol=0, atol=1e-4)


def test_the_pictures_are_in_range_and_labelled(walkthrough: ModuleType) -> None:
    x0, label = walkthrough.load_pictures(12, 16)
    assert x0.shape == (12, 3, 16, 16)
    assert x0.dtype == torch.float32
    assert -1 <= x0.min() < -0.5
    assert 0.5 < x0.max() <= 1
    assert label.tolist() == [*range(6), *range(6)]


def test_it_runs_learns_and_draws(walkthrough: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nine steps in place of thirty for every sample: the sampler itself has its laws above.
    monkeypatch.setattr(walkthrough, "sample", functools.partial(walkthrough.sample, steps=9))
    losses = walkthrough.main(["--out", str(tmp_path), "--steps", "40", "--size", "8", "--pictures", "120"])
    assert len(losses) == 40
    # The noise in v alone, alpha^2 of it, is 1/2 on average over t: less than that has been learnt.
    assert np.mean(losses[:3]) > 0.5
    assert np.mean(losses[-6:]) < 0.6 * np.mean(losses[:3])
    cells = {"forward": (3, 11), "training": (6, 12), "samples": (6, 8), "reverse": (6, 4)}
    for name, (rows, columns) in cells.items():
        picture = Image.open(tmp_path / f"{name}.png")
        assert picture.size == (columns * 9 * 5, rows * 9 * 5), name
        assert np.asarray(picture).std() > 20, f"{name} is blank"
