from dataclasses import replace

import pytest
import torch
from fault_scenes import evaluation, reference, samples

from kakusan.metrics.clusters import Thumbnail
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.memorisation import memorisation, suspicious_strip
from kakusan.metrics.nearest import TrainingPictures, distinct
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet


def planted(world: Evaluation, rows: list[int], *, noise: float = 0.0) -> tuple[PictureSet, list[int]]:
    """Samples of which some are training pictures: (samples, the training rows)."""
    training = world.reference.training
    some = samples(0, 64, training.spec)
    sources = [7 * row % len(training) for row in rows]
    x = training.x(torch.tensor(sources))
    stored = some.stored.clone()
    generator = torch.Generator().manual_seed(3)
    stored[rows] = training.spec.to_stored(x + noise * torch.randn(x.shape, generator=generator))
    return replace(some, stored=stored), sources


@pytest.mark.parametrize("space", [None, Thumbnail()])
def test_copies_are_found_with_their_sources(space: Thumbnail | None) -> None:
    world = evaluation()
    rows = list(range(0, 64, 6))
    some, sources = planted(world, rows, noise=0.01)
    report = memorisation(world, some, space)
    assert report.p < 1e-4
    found = {suspect.sample: suspect.neighbour for suspect in report.suspects}
    assert {row: found.get(row) for row in rows} == dict(zip(rows, sources, strict=True))
    assert list(report.suspects) == sorted(report.suspects, key=lambda suspect: (suspect.ratio, suspect.sample))
    assert report.records[0].value >= len(rows) / 64
    assert report.records[0].null == pytest.approx(0.0, abs=0.02)
    assert "held-out pictures" in report.text()


def test_new_pictures_are_no_copies() -> None:
    for seed in range(3):
        world = evaluation(seed)
        report = memorisation(world, samples(seed, 64, world.reference.pool.spec))
        assert report.p > 0.01
        assert all(record.z is None or abs(record.z) < 4 for record in report.records)


def test_duplicates_in_the_training_set_do_not_hide_a_copy() -> None:
    world = evaluation()
    given = world.reference
    some, sources = planted(world, [0, 9, 18], noise=0.02)
    plain = memorisation(world, some)
    exact = given.training.join(given.training.take(sources * 3))
    near = given.training.take(sources * 2)
    generator = torch.Generator().manual_seed(5)
    noise = 0.005 * torch.randn(near.x().shape, generator=generator)
    near = replace(near, stored=near.spec.to_stored(near.x() + noise))
    for training, duplicates in ((exact, 9), (given.training.join(near), 0)):
        repeated = Evaluation(replace_training(given, training), [], [])
        report = memorisation(repeated, some)
        assert report.duplicates == duplicates
        for row in (0, 9, 18):
            assert report.ratio[row] == pytest.approx(plain.ratio[row], rel=0.3)
            assert report.ratio[row] < 1 / 3


def replace_training(given: Reference, training: PictureSet) -> Reference:
    return Reference(given.learning, given.pool, training, given.held_out)


def test_a_mirrored_copy_is_found_where_training_mirrors() -> None:
    given = reference()
    flipped = replace(given.training, spec=replace(given.training.spec, flip=True))
    some = samples(0, 64, given.training.spec)
    stored = some.stored.clone()
    stored[4] = given.training.stored[11].flip(-1)
    some = replace(some, stored=stored)
    seen = memorisation(Evaluation(replace_training(given, flipped), [], []), some)
    unseen = memorisation(Evaluation(given, [], []), some)
    assert seen.ratio[4] == 0.0
    assert unseen.ratio[4] > 0.1
    assert seen.suspects[0].neighbour == 11


def test_without_held_out_pictures_each_training_picture_stands_beside_the_others() -> None:
    given = reference()
    alone = Reference(given.learning, given.pool, given.training, given.held_out.take([]))
    world = Evaluation(alone, [], [])
    report = memorisation(world, samples(1, 64, given.pool.spec))
    assert report.p > 0.01
    assert not report.beside_new
    assert "Nothing was held out" in report.text()
    copied, _ = planted(world, list(range(0, 64, 6)), noise=0.01)
    assert memorisation(world, copied).p < 1e-4


def test_the_second_neighbour_is_another_picture() -> None:
    line = torch.tensor([[0.0], [0.001], [4.0], [9.0], [15.0]])
    known = TrainingPictures(line, torch.arange(5))
    found = known.two_nearest(torch.tensor([[0.1], [8.0]]))
    assert found.index.tolist() == [1, 3]
    assert found.first.tolist() == pytest.approx([0.099, 1.0])
    assert found.second.tolist() == pytest.approx([3.9, 4.0])
    own = known.two_nearest(line[2:3], own=torch.tensor([2]))
    assert own.first.tolist() == pytest.approx([3.999])


def test_too_few_pictures_are_refused_and_exact_duplicates_counted_once() -> None:
    given = reference()
    same = given.training.take([0] * 8 + [1, 2])
    assert distinct(same).tolist() == [0, 8, 9]
    with pytest.raises(ValueError, match="3 distinct training pictures"):
        memorisation(Evaluation(replace_training(given, same), [], []), samples(0, 32, given.pool.spec))


def test_the_strip_shows_each_suspect_above_its_neighbour() -> None:
    world = evaluation()
    some, _ = planted(world, [0, 9, 18])
    report = memorisation(world, some)
    strip = suspicious_strip(report, some, world.reference.training, most=3)
    assert strip is not None
    assert strip.width > strip.height
    none = replace(report, suspects=())
    assert suspicious_strip(none, some, world.reference.training) is None
