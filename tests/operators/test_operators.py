"""Operators: what each of them does, and the laws of its adjoint, its pseudo-inverse and its rotation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kakusan.operators import (
    Blur,
    CompressedSensing,
    Downsample,
    GaussianBlur,
    Gray,
    Identity,
    Mask,
    Matrix,
    Measurement,
    Separable,
    motion,
)

SHAPE = (3, 8, 12)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def known(seed=0):
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) > 0.5


OPERATORS = {
    "identity": lambda: Identity(SHAPE),
    "mask": lambda: Mask(known()),
    "mask of one channel": lambda: Mask(known()[:1], SHAPE),
    "gray": lambda: Gray(SHAPE),
    "gray of four": lambda: Gray((4, 8, 6)),
    "box": lambda: Downsample(SHAPE, 4),
    "bicubic": lambda: Downsample(SHAPE, 2, kernel="bicubic"),
    "lanczos": lambda: Downsample(SHAPE, 2, kernel="lanczos"),
    "gaussian": lambda: GaussianBlur(SHAPE, 1.3),
    "wide gaussian": lambda: GaussianBlur(SHAPE, 9.0),
    "motion": lambda: Blur(SHAPE, motion(5, 30.0)),
    "even kernel": lambda: Blur(SHAPE, random(4, 2).abs()),
    "volume": lambda: Downsample((2, 4, 6, 4), 2),
    "sound": lambda: Blur((1, 20), random(5)),
    "sensing": lambda: CompressedSensing(SHAPE, 0.3, seed=2),
    "matrix": lambda: Matrix((2, 5), random(4, 10)),
    "tall matrix": lambda: Matrix((2, 2), random(7, 4)),
    "rank 1": lambda: Matrix((6,), random(3, 1) @ random(1, 6)),
}
every = pytest.mark.parametrize("name", OPERATORS)


def pairs(operator, batch=3):
    return random(batch, *operator.shape, seed=1), random(batch, *operator.measured, seed=2)


def dot(a, b):
    return (a * b).flatten(1).sum(1)


@every
def test_the_rotation_keeps_lengths_and_can_be_undone(name):
    operator = OPERATORS[name]()
    x, _ = pairs(operator)
    z = operator.rotate(x)
    torch.testing.assert_close(z.abs().square().flatten(1).sum(1), dot(x, x))
    torch.testing.assert_close(operator.unrotate(z), x)


@every
def test_the_adjoint_is_the_adjoint(name):
    operator = OPERATORS[name]()
    x, y = pairs(operator)
    torch.testing.assert_close(dot(operator(x), y), dot(x, operator.adjoint(y)))


@every
def test_penrose_s_four_conditions(name):
    operator = OPERATORS[name]()
    x, y = pairs(operator)
    torch.testing.assert_close(operator(operator.pinv(operator(x))), operator(x))
    torch.testing.assert_close(operator.pinv(operator(operator.pinv(y))), operator.pinv(y))
    x2, y2 = random(3, *operator.shape, seed=5), random(3, *operator.measured, seed=6)
    torch.testing.assert_close(dot(operator.pinv(operator(x)), x2), dot(x, operator.pinv(operator(x2))))
    torch.testing.assert_close(dot(operator(operator.pinv(y)), y2), dot(y, operator(operator.pinv(y2))))


@every
@given(ratio=st.floats(1e-3, 10.0))
def test_the_pull_towards_a_measurement_solves_its_least_squares(name, ratio):
    operator = OPERATORS[name]()
    x0, y = pairs(operator)
    found = Measurement(operator, y, 0.1).towards(x0, ratio)
    gradient = operator.adjoint(operator(found) - y) + ratio * (found - x0)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-8)
    # Without a ratio it fits what can be fitted, and keeps x0 in the null space.
    exact = Measurement(operator, operator(x0), 0.0).towards(random(3, *operator.shape, seed=9), 0.0)
    torch.testing.assert_close(operator(exact), operator(x0))


@every
def test_the_likelihood_is_that_of_the_normal_distribution(name):
    operator = OPERATORS[name]()
    x0, y = pairs(operator)
    std, variance = 0.7, 0.4
    columns = torch.eye(x0[0].numel(), dtype=torch.float64).view(-1, *operator.shape)
    matrix = operator(columns).flatten(1).T
    # Directions of y that the operator never reaches are no measurement: compared within its range.
    basis = torch.linalg.svd(matrix).U[:, : operator.rank]
    covariance = basis.T @ (variance * matrix @ matrix.T) @ basis + std**2 * torch.eye(operator.rank).double()
    exact = torch.distributions.MultivariateNormal(operator(x0).flatten(1) @ basis, covariance)
    expected = exact.log_prob(y.flatten(1) @ basis)
    torch.testing.assert_close(Measurement(operator, y, std).log_likelihood(x0, variance), expected)


def test_what_each_operator_does():
    x = random(2, *SHAPE)
    torch.testing.assert_close(Identity(SHAPE)(x), x)
    torch.testing.assert_close(Mask(known())(x), x * known())
    torch.testing.assert_close(Downsample(SHAPE, 4)(x), F.avg_pool2d(x, 4))
    luma = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    torch.testing.assert_close(Gray(SHAPE)(x), luma)
    matrix = random(4, 10)
    torch.testing.assert_close(Matrix((2, 5), matrix)(random(2, 2, 5)), random(2, 2, 5).flatten(1) @ matrix.T)


@pytest.mark.parametrize(
    "kernel,filter", [("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS)]
)
def test_shrinking_is_what_picture_programs_do(kernel, filter):
    x = random(1, 1, 24, 16)
    theirs = np.asarray(Image.fromarray(x[0, 0].numpy().astype(np.float32)).resize((4, 6), filter))
    ours = Downsample((1, 24, 16), 4, kernel=kernel)(x)[0, 0]
    torch.testing.assert_close(ours.float(), torch.from_numpy(theirs.copy()), rtol=1e-5, atol=1e-5)


def test_a_gaussian_blur_mirrors_the_border_and_keeps_the_mean():
    x = random(1, 1, 20, 20)
    reach, std = 6, 1.5
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).double() / std) ** 2)
    weights = weights / weights.sum()
    # torch's reflect leaves out the edge itself; mirroring with it is a flip joined on.
    wide = torch.cat([x[..., :reach].flip(-1), x, x[..., -reach:].flip(-1)], -1)
    wide = torch.cat([wide[..., :reach, :].flip(-2), wide, wide[..., -reach:, :].flip(-2)], -2)
    expected = F.conv2d(F.conv2d(wide, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    found = GaussianBlur((1, 20, 20), std)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.mean(), x.mean())


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_a_blur_is_circular_convolution_about_the_kernel_s_centre(height, width, seed):
    x, kernel = random(1, 1, 6, 7, seed=seed), random(height, width, seed=seed + 1)
    expected = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            expected += kernel[i, j] * x.roll((i - height // 2, j - width // 2), (2, 3))
    torch.testing.assert_close(Blur((1, 6, 7), kernel)(x), expected)


def test_sensing_rows_are_orthonormal_and_the_seed_decides_them():
    operator = CompressedSensing(SHAPE, 0.25, seed=3)
    y = random(2, *operator.measured)
    assert operator.measured == (72,)
    torch.testing.assert_close(operator(operator.adjoint(y)), y)
    x = random(1, *SHAPE)
    assert torch.equal(operator(x), CompressedSensing(SHAPE, 0.25, seed=3)(x))
    assert not torch.allclose(operator(x), CompressedSensing(SHAPE, 0.25, seed=4)(x))


def test_motion_has_unit_mass_and_lies_along_its_angle():
    flat, steep = motion(9, 0.0), motion(9, 90.0)
    torch.testing.assert_close(flat.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert (flat > 0).any(1).sum() == 1
    assert (steep > 0).any(0).sum() == 1


def test_composite_keeps_known_elements_to_the_bit():
    mask = Mask(known())
    picture, restored = random(2, *SHAPE).float(), random(2, *SHAPE, seed=4).float()
    joined = mask.composite(restored, picture)
    where = known().expand(2, *SHAPE)
    assert torch.equal(joined[where], picture[where])
    assert torch.equal(joined[~where], restored[~where])


def test_half_precision_factors_follow_the_samples():
    operator = Downsample(SHAPE, 2)
    assert operator(random(1, *SHAPE).float()).dtype == torch.float32
    assert operator.pinv(random(1, *operator.measured).float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask(torch.ones(3, 8, 8), (3, 8, 9)), "does not fit pictures of shape"),
        (lambda: Mask(torch.ones(2, 8, 8), (3, 8, 8)), "does not fit pictures of shape"),
        (lambda: Mask(torch.full((1, 8, 8), 0.5)), "nothing between"),
        (lambda: Mask(torch.zeros(1, 8, 8)), "knows no pixel"),
        (lambda: Gray((1, 8, 8)), "gray already"),
        (lambda: Gray((3, 8, 8), [1.0, 2.0]), "2 weights were given for 3 channels"),
        (lambda: Downsample((3, 8, 9), 2), "divide every side"),
        (lambda: Downsample((3, 8, 8), 1), "at least 2"),
        (lambda: Downsample((3, 8, 8), 2, kernel="cubic"), "no kernel 'cubic'"),
        (lambda: GaussianBlur((3, 8, 8), 0.0), "above 0"),
        (lambda: Blur((3, 8, 8), torch.ones(9, 3)), "does not fit"),
        (lambda: Blur((3, 8, 8), torch.full((3, 3), float("nan"))), "not finite"),
        (lambda: Blur((3, 8, 8), torch.zeros(3, 3)), "measures nothing"),
        (lambda: motion(1, 0.0), "at least 2 pixels"),
        (lambda: CompressedSensing((3, 8, 8), 0.0), "ratio"),
        (lambda: Matrix((4,), torch.ones(2, 5)), "must be finite and"),
        (lambda: Separable((3, 8, 8), [torch.ones(2, 8)]), "do not fit"),
        (lambda: Identity((3, 8, 8))(torch.zeros(1, 1, 8, 8)), "was made for pictures of shape"),
        (lambda: Downsample((3, 8, 8), 2).adjoint(torch.zeros(1, 3, 8, 8)), "was made for measurements of shape"),
        (lambda: Measurement(Identity((1, 4)), torch.zeros(1, 1, 5)), "measures"),
        (lambda: Measurement(Identity((1, 4)), torch.full((1, 1, 4), float("inf"))), "not finite"),
        (lambda: Measurement(Identity((1, 4)), torch.zeros(1, 1, 4), -1.0), "must not be negative"),
        (lambda: Measurement(Identity((1, 4)), torch.zeros(2, 1, 4)).rows(torch.zeros(3, 1, 4)), "shared out"),
        (
            lambda: Measurement(Identity((1, 4)), torch.zeros(1, 1, 4)).log_likelihood(torch.zeros(1, 1, 4)),
            "no density",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
