from dataclasses import replace

import pytest
import torch
from fault_scenes import evaluation, samples

from kakusan.data.spec import DataSpec
from kakusan.metrics.colour import colour_records
from kakusan.metrics.degrade import recoloured
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.palette import Palette
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet


def test_means_deviations_and_correlations_are_those_of_the_pixels() -> None:
    world = evaluation()
    some = samples(0, 64, world.reference.pool.spec)
    found = {record.name: record for record in colour_records(world, some)}
    for part, value in ((some, "value"), (world.reference.pool, "null")):
        pixels = part.x().double().transpose(0, 1).flatten(1)
        exact = torch.corrcoef(pixels)
        for c, name in enumerate(("red", "green", "blue")):
            assert getattr(found[f"mean of {name}"], value) == pytest.approx(float(pixels[c].mean()), abs=1e-6)
            deviation = float(pixels[c].std(correction=0))
            assert getattr(found[f"standard deviation of {name}"], value) == pytest.approx(deviation, abs=1e-6)
        assert getattr(found["correlation of red and blue"], value) == pytest.approx(float(exact[0, 2]), abs=1e-6)
    assert all(record.z is not None and abs(record.z) < 4.5 for record in found.values())


def test_a_tint_is_measured_in_standard_errors() -> None:
    world = evaluation()
    some = samples(0, 64, world.reference.pool.spec)
    tinted = replace(some, stored=some.spec.to_stored(some.x() + torch.tensor([0.1, 0.0, 0.0]).view(1, 3, 1, 1)))
    before, after = ({r.name: r for r in colour_records(world, each)} for each in (some, tinted))
    red = after["mean of red"].value - before["mean of red"].value
    assert red == pytest.approx(0.1, abs=0.01)
    assert after["mean of blue"].value == before["mean of blue"].value
    assert after["mean of red"].z is not None
    assert after["mean of red"].z > 5.0


def test_cells_of_a_palette_hold_equal_shares_and_all_of_a_picture() -> None:
    pool = evaluation().reference.pool
    palette = Palette.of(pool, cells=8)
    shares = palette.shares(pool)
    assert torch.allclose(shares.sum(1), torch.ones(len(pool)).double())
    assert torch.allclose(shares.mean(0), torch.full((8,), 1 / 8).double(), atol=0.02)
    assert len(palette.names(pool.spec)) == 8


def test_a_palette_of_one_colour_has_one_cell() -> None:
    flat = torch.full((4, 1, 8, 8), 7, dtype=torch.uint8)
    palette = Palette.of(PictureSet(flat, DataSpec.measure(flat)))
    assert len(palette.colours) == 1
    assert palette.shares(PictureSet(flat, DataSpec.measure(flat))).tolist() == [[1.0]] * 4


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0]])
def test_some_correction_brings_exchanged_channels_back(order: list[int]) -> None:
    pool = evaluation().reference.pool
    some = samples(3, 128, pool.spec)
    views = recoloured(replace(some, stored=some.stored[:, order]), pool)
    far = [float((view.x() - some.x()).abs().mean()) for view in views]
    assert min(far) < 0.04
    assert float((some.x()[:, order] - some.x()).abs().mean()) > 0.3


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 5, 3), (4, 6, 6), (6, 4, 4)])
def test_any_number_of_channels(shape: tuple[int, ...]) -> None:
    stored = torch.randint(0, 256, (80, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    spec = DataSpec.measure(stored)
    part = PictureSet(stored, spec)
    world = Evaluation(Reference(part.take(range(20)), part, part, part.take([])), [], [])
    assert len(colour_records(world, part.take(range(30)))) >= 2 * shape[0]
    assert recoloured(part, part)
