import pytest
import torch

from kakusan.metrics.neighbours import nearest_by_class

# One dimension, two classes; class 1 lies far away, so that a neighbour of the other class would be seen.
TRAINING = torch.tensor([[0.0], [10.0], [1000.0]]), torch.tensor([0, 0, 1])
HELD_OUT = torch.tensor([[2.0], [1004.0], [996.0]]), torch.tensor([0, 1, 1])


def test_distances_are_to_the_nearest_training_picture_of_the_same_class() -> None:
    samples = torch.tensor([[9.0], [3.0], [1002.0]]), torch.tensor([0, 0, 1])
    report = nearest_by_class(samples, HELD_OUT, TRAINING, percentile=0.0)
    assert sorted(report.generated) == [1.0, 2.0, 3.0]
    assert sorted(report.held_out) == [2.0, 4.0, 4.0]
    assert (report.generated_low, report.held_out_low, report.ratio) == (1.0, 2.0, 0.5)
    first, second = report.by_class
    assert (first.label, first.generated_low, first.held_out_low, first.ratio) == (0, 1.0, 2.0, 0.5)
    assert (second.label, second.generated_low, second.held_out_low, second.ratio) == (1, 2.0, 4.0, 0.5)
    assert [(c.generated, c.held_out) for c in report.by_class] == [(2, 1), (1, 2)]


def test_copies_show_as_a_ratio_of_zero() -> None:
    report = nearest_by_class(TRAINING, HELD_OUT, TRAINING)
    assert report.ratio == 0.0
    assert all(c.ratio == 0.0 for c in report.by_class)


def test_a_class_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="class 5 has no pictures in one of the sets"):
        nearest_by_class((torch.zeros(1, 1), torch.tensor([5])), HELD_OUT, TRAINING)
