from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fault_scenes import CENTRES, ByPlace, blobs, evaluation, labels_of, samples
from torch import Tensor

from kakusan.data.spec import DataSpec
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.faults import NAMES, examine, find_faults
from kakusan.metrics.record import MetricRecord
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet

N = 128
Plant = Callable[[PictureSet, Evaluation], PictureSet]


def noise(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(8))


def of_x(change: Callable[[Tensor], Tensor]) -> Plant:
    return lambda some, world: replace(some, stored=some.spec.to_stored(change(some.x())))


def blurred(x: Tensor) -> Tensor:
    wide = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.avg_pool2d(wide, 3, 1)


def left_out(some: PictureSet, world: Evaluation) -> PictureSet:
    shown = labels_of(len(some))
    shown[shown == 2] = 1
    return replace(some, stored=blobs(123, shown))


def copied(some: PictureSet, world: Evaluation) -> PictureSet:
    training = world.reference.training
    rows = torch.arange(0, len(some), 8)
    assert training.labels is not None or some.labels is None
    stored = some.stored.clone()
    # Labels run round in both sets, so a source of the same remainder has the same class.
    x = training.x(rows % 4 + 4 * (rows // 2))
    if training.labels is not None and some.labels is not None:
        x = torch.stack([training.x()[training.labels == k][i] for i, k in enumerate(some.labels[rows].tolist())])
    stored[rows] = training.spec.to_stored(x + 0.02 * noise(x))
    return replace(some, stored=stored)


def ignored(some: PictureSet, world: Evaluation) -> PictureSet:
    assert some.labels is not None
    return replace(some, labels=some.labels[torch.randperm(len(some), generator=torch.Generator().manual_seed(2))])


PLANTED: dict[str, Plant] = {
    "noisy": of_x(lambda x: x + 0.1 * noise(x)),
    "blurred": of_x(blurred),
    "wrong colour": of_x(lambda x: x.flip(1)),
    "copies": copied,
    "mode missing": left_out,
    "labels ignored": ignored,
}


def test_every_name_is_planted() -> None:
    assert set(PLANTED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_fault_is_called_by_its_name_and_nothing_else(name: str) -> None:
    world = evaluation(1)
    some = PLANTED[name](samples(1, N, world.reference.pool.spec), world)
    faults = find_faults(world, some, judge=ByPlace())  # type: ignore[arg-type]
    assert [fault.name for fault in faults] == [name]
    (fault,) = faults
    assert fault.verdict.endswith(".")
    assert len(fault.verdict) > 80
    assert fault.evidence
    assert all(isinstance(record, MetricRecord) and record.null is not None for record in fault.evidence)


@pytest.mark.parametrize("seed", range(3))
def test_real_pictures_have_no_fault(seed: int) -> None:
    world = evaluation(seed)
    found = examine(world, samples(seed, N, world.reference.pool.spec), judge=ByPlace())  # type: ignore[arg-type]
    assert found.faults == ()
    assert set(found.p) == set(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "labels ignored"])
def test_without_labels_five_faults_are_left(name: str) -> None:
    world = evaluation(labeled=False)
    spec = world.reference.pool.spec
    some = PLANTED[name](samples(0, N, spec), world)
    found = examine(world, some, judge=None)
    assert [fault.name for fault in found.faults] == [name]
    assert any("labels" in note for note in found.notes)
    assert examine(world, samples(0, N, spec), judge=None).faults == ()


class ByOnePixel(ByPlace):
    """Looks at the middle of each place only, so that noise leads it astray."""

    def predict(self, x: Tensor, *, batch: int = 256) -> Tensor:
        gray = (x * self.weight.view(1, 3, 1, 1)).sum(1)
        return torch.stack([gray[:, row, column] for row, column in CENTRES], 1).argmax(1)


def test_a_judge_led_astray_by_noise_does_not_accuse_the_labels() -> None:
    world = evaluation()
    some = samples(0, N, world.reference.pool.spec)
    loud = replace(some, stored=some.spec.to_stored(some.x() + 0.6 * noise(some.x())))
    judge = ByOnePixel()
    assert some.labels is not None
    right = [float((judge.predict(each.x()) == some.labels).double().mean()) for each in (some, loud)]
    assert right[0] > 0.97 > 0.93 > right[1]
    # Noise as loud as this is clipped and moves colours too; the labels it has nothing to do with.
    named = {fault.name for fault in find_faults(world, loud, judge=judge)}  # type: ignore[arg-type]
    assert "noisy" in named
    assert "labels ignored" not in named


def test_two_faults_are_both_named() -> None:
    world = evaluation()
    some = samples(0, N, world.reference.pool.spec)
    both = PLANTED["noisy"](PLANTED["labels ignored"](some, world), world)
    names = [fault.name for fault in find_faults(world, both, judge=ByPlace())]  # type: ignore[arg-type]
    assert names == ["noisy", "labels ignored"]


@pytest.mark.parametrize(
    ("shape", "bits"), [((1, 4, 4), 8), ((1, 12, 7), 16), ((4, 8, 8), 8), ((6, 5, 9), 16), ((3, 1, 1), 8), ((2, 40), 8)]
)
def test_any_shape_and_depth_is_examined(shape: tuple[int, ...], bits: int) -> None:
    generator = torch.Generator().manual_seed(1)
    kind = torch.uint8 if bits == 8 else torch.uint16
    stored = torch.randint(0, 2**bits, (220, *shape), generator=generator, dtype=torch.int32).to(kind)
    flat = stored if len(shape) == 3 else stored[:, :, None]
    spec = DataSpec.measure(flat)
    if len(shape) == 2:
        spec = replace(spec, size=shape[1:])
    part = PictureSet(stored, spec)
    split = Reference(
        part.take(range(50)), part.take(range(50, 170)), part.take(range(130)), part.take(range(130, 170))
    )
    found = examine(Evaluation(split, [], []), part.take(range(170, 220)), judge=None)
    assert found.faults == ()
    assert found.notes
    copies = examine(Evaluation(split, [], []), part.take(range(60, 100)), judge=None)
    if shape != (3, 1, 1):
        assert [fault.name for fault in copies.faults] == ["copies"]


def test_unlike_or_too_few_samples_are_refused() -> None:
    world = evaluation()
    some = samples(0, 32, world.reference.pool.spec)
    with pytest.raises(ValueError, match="at least 16"):
        find_faults(world, some.take(range(15)), judge=None)
    small = some.stored[:, :, :8]
    with pytest.raises(ValueError, match="the samples are"):
        find_faults(world, PictureSet(small, DataSpec.measure(small)), judge=None)
