"""The embedded scans of digits."""

import builtins
import importlib.util
import sys

import pytest
import torch

from kakusan.data import digits

if importlib.util.find_spec("sklearn") is None:
    pytest.skip("scikit-learn is not installed", allow_module_level=True)


def test_parts_are_apart_and_together_make_all_scans() -> None:
    train, held_out = digits.pictures(), digits.pictures("held-out")
    names = {train.name(i) for i in range(len(train))}, {held_out.name(i) for i in range(len(held_out))}
    assert not names[0] & names[1]
    assert len(names[0]) + len(names[1]) == len(train) + len(held_out) == 1797
    assert train.spec == held_out.spec


def test_spec_and_balance() -> None:
    train, held_out = digits.pictures(), digits.pictures("held-out")
    assert train.spec.shape == (1, 8, 8)
    assert (train.spec.low, train.spec.high) == (0.0, 16.0)
    assert train.spec.classes == tuple("0123456789")
    stored = train.read(range(len(train)))
    assert int(stored.min()) == 0
    assert int(stored.max()) == 16
    x = train.spec.to_model(stored)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    assert torch.equal(train.spec.to_stored(x), stored)
    counts = torch.bincount(held_out.labels)
    assert int(counts.min()) >= 34
    assert int(counts.max()) <= 37


def test_reading_twice_gives_the_same() -> None:
    assert digits.pictures().fingerprint == digits.pictures().fingerprint
    assert digits.pictures().fingerprint != digits.pictures("held-out").fingerprint


def test_captions_name_the_digit() -> None:
    train = digits.pictures()
    assert train.captions[5] == f"a handwritten digit {int(train.labels[5])}"


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'held-out'"):
        digits.pictures("heldout")


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "sklearn":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r'pip install "kakusan\[digits\]"'):
        digits.pictures()
