"""Continuing known values into a hole, against the closed form of the difference equation."""

import math

import pytest
import torch

from kakusan.operators.seams import continued


def test_in_one_dimension_it_is_the_solution_of_the_difference_equation() -> None:
    values = torch.zeros(1, 1, 12, dtype=torch.float64)
    values[0, 0, :3], values[0, 0, 9:] = 2.0, -1.0
    known = torch.ones(1, 12, dtype=torch.bool)
    known[:, 3:9] = False
    width = 1.7
    # c[k-1] + c[k+1] = (2 + 1 / w^2) c[k] is solved by powers of r and 1 / r.
    r = 1.0 + 0.5 / width**2 - math.sqrt((1.0 + 0.5 / width**2) ** 2 - 1.0)
    k = torch.arange(12, dtype=torch.float64) - 2
    ends = torch.tensor([[1.0, 1.0], [r**7, r**-7]], dtype=torch.float64)
    a, b = torch.linalg.solve(ends, torch.tensor([2.0, -1.0], dtype=torch.float64))
    expected = torch.where(known[0], values[0, 0], a * r**k + b * r**-k)
    torch.testing.assert_close(continued(values, known, width=width)[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_membrane_keeps_a_plane_and_known_values_to_the_bit() -> None:
    across, down = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    plane = (0.5 * across - 0.25 * down + 1.0).expand(2, 3, 9, 7)
    known = torch.ones(1, 9, 7, dtype=torch.bool)
    known[:, 2:6, 1:5] = False
    found = continued(torch.where(known, plane, torch.full_like(plane, 9.0)), known)
    torch.testing.assert_close(found, plane, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[:, known.expand(3, 9, 7)], plane[:, known.expand(3, 9, 7)])
    with pytest.raises(ValueError, match="above 0"):
        continued(plane, known, width=0.0)
