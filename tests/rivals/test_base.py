"""What every rival shares: labels, proportions, the mixture over classes, one seed for each sample."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.noise import Stream, normal
from kakusan.rivals import RIVALS
from kakusan.rivals.base import Rival, class_proportions


def spec(classes: tuple[str, ...] = ("a", "b", "c")) -> DataSpec:
    return DataSpec(channels=1, size=(2, 2), mean=(0.0,), std=(0.5,), mode="L", classes=classes)


class Coins(Rival):
    """Every element 0 with the probability of its class, else 255; independent."""

    kind = "coins"
    likelihood_kind = "exact"

    def __init__(self, *, spec: DataSpec, proportions: tuple[float, ...] = ()) -> None:
        super().__init__(spec=spec, proportions=proportions)
        self.dark = nn.Parameter(torch.tensor([0.5, 0.25, 0.125]))

    @classmethod
    def for_data(cls, pictures, **options):
        return cls(spec=pictures.spec, proportions=class_proportions(pictures), **options)

    def groups(self, *, seed, settings=None):
        return []

    def _sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        offset = 0.0 if labels is None else labels.view(-1, 1, 1, 1)
        return 3.0 * normal(seeds, Stream.START, shape=self.spec.shape) + offset

    def _log_prob(self, stored: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        dark = (self.dark[:1] if labels is None else self.dark[labels]).view(-1, 1, 1, 1).double()
        return torch.where(stored == 0, dark, 1.0 - dark).log().flatten(1).sum(1)


def coins(proportions: tuple[float, ...] = (0.5, 0.3, 0.2)) -> Coins:
    return Coins(spec=spec(), proportions=proportions)


STORED = torch.tensor([[0, 0, 0, 0], [255, 0, 0, 255], [255, 255, 255, 255]], dtype=torch.uint8).view(3, 1, 2, 2)


def test_bits_with_labels_are_those_of_the_class() -> None:
    found = coins().log_likelihood(STORED, torch.tensor([0, 1, 2]), seeds=[0, 1, 2])
    by_hand = [4.0, -math.log2(0.25**2 * 0.75**2), -4 * math.log2(0.875)]
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64) / 4.0)


def test_bits_without_labels_are_those_of_the_mixture() -> None:
    model = coins()
    found = model.log_likelihood(STORED, seeds=[0, 1, 2])
    assert found is not None
    each = [
        model._log_prob(STORED, torch.full((3,), k), torch.arange(3)).exp() * model.proportions[k] for k in (0, 1, 2)
    ]
    torch.testing.assert_close(2.0 ** (-4.0 * found), torch.stack(each).sum(0).detach())


def test_a_class_that_never_occurs_is_no_part_of_the_mixture() -> None:
    found = coins((0.0, 1.0, 0.0)).log_likelihood(STORED, seeds=[0, 1, 2])
    torch.testing.assert_close(found, coins().log_likelihood(STORED, torch.full((3,), 1), seeds=[0, 1, 2]))


def test_probabilities_of_all_pictures_add_up_to_one() -> None:
    every = torch.tensor([[255 * (n >> i & 1) for i in range(4)] for n in range(16)], dtype=torch.uint8)
    bits = coins().log_likelihood(every.view(16, 1, 2, 2), seeds=list(range(16)))
    assert bits is not None
    assert float((2.0 ** (-4.0 * bits)).sum()) == pytest.approx(1.0)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6, unique=True), st.randoms())
def test_a_sample_depends_on_its_own_seed_only(seeds: list[int], random) -> None:
    model = coins()
    together = model.sample(seeds)
    order = list(range(len(seeds)))
    random.shuffle(order)
    assert torch.equal(model.sample([seeds[i] for i in order]), together[order])
    assert torch.equal(model.sample(seeds[:1]), together[:1])
    assert float(together.abs().max()) <= 1.0


def test_labels_drawn_without_being_asked_have_the_proportions() -> None:
    labels = coins().drawn_labels(torch.arange(20_000))
    found = torch.bincount(labels, minlength=3) / 20_000.0
    assert torch.allclose(found, torch.tensor([0.5, 0.3, 0.2]), atol=4.0 * 0.5 / math.sqrt(20_000))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.sample([1, 2], torch.tensor([0])), "each of 2"),
        (lambda m: m.sample([1], torch.tensor([3])), "3 classes"),
        (lambda m: m.log_likelihood(STORED, seeds=[1]), "1 seeds were given for 3"),
        (lambda m: m.log_likelihood(STORED.float(), seeds=[1, 2, 3]), "uint8"),
        (lambda m: Coins(spec=spec(()), proportions=()).sample([1], torch.tensor([0])), "without classes"),
        (lambda m: Coins(spec=spec(), proportions=(0.5, 0.5)), "one share for each"),
        (lambda m: Coins(spec=spec(), proportions=(0.5, 0.6, 0.4)), "in all 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(coins())


def test_proportions_are_those_of_the_labels() -> None:
    pictures = ArrayPictures(spec(), STORED, labels=[0, 0, 2])
    assert class_proportions(pictures) == pytest.approx((2 / 3, 0.0, 1 / 3))
    assert class_proportions(ArrayPictures(spec(()), STORED)) == ()


def test_kinds_are_found_by_name() -> None:
    assert list(RIVALS) == ["vae", "gan", "flow"]
    assert RIVALS["vae"].kind == "vae"
    with pytest.raises(KeyError, match="did you mean 'vae'"):
        RIVALS["vea"]
