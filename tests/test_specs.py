"""Objects to JSON and back: only what is registered, and unknown names with a suggestion."""

import json
from dataclasses import dataclass

import pytest
import torch

from kakusan import specs
from kakusan.conditioning import ClassLabels
from kakusan.denoiser import LogSnrMap, NoiseMap, TimeMap
from kakusan.schedule_tables import Tabulated
from kakusan.schedule_wrappers import Shifted
from kakusan.schedules import Cosine, NoiseSchedule


def through_json(value):
    return json.loads(json.dumps(specs.to_spec(value)))


def test_nested_objects_survive_json():
    for value, kind in (
        (Shifted(Shifted(Cosine(), 2.0), 0.5), NoiseSchedule),
        (Tabulated.linear(100), NoiseSchedule),
        (TimeMap(Cosine(), 500.0), NoiseMap),
    ):
        assert specs.from_spec(through_json(value), kind) == value


def test_modules_are_stored_by_the_arguments_of_their_constructor():
    made = ClassLabels(classes=["a", "b"], width=6, dropout=0.2)
    spec = through_json(made)
    assert spec == {"type": "ClassLabels", "classes": ["a", "b"], "width": 6, "dropout": 0.2}
    again = specs.from_spec(spec, ClassLabels)
    assert again.classes == ("a", "b")
    assert again.table.weight.shape == made.table.weight.shape


def test_unknown_names_are_refused_with_the_nearest_known():
    with pytest.raises(ValueError, match="unknown type 'Cosin'.*did you mean 'Cosine'"):
        specs.from_spec({"type": "Cosin"}, NoiseSchedule)
    with pytest.raises(ValueError, match="no argument 'shft'.*did you mean 'shift'"):
        specs.from_spec({"type": "Shifted", "inner": {"type": "Cosine"}, "shft": 2.0}, NoiseSchedule)


@pytest.mark.parametrize(
    "bad", [{"type": "os.system"}, {"type": 3}, {"type": "Cosine.__class__"}, {"type": "Popen", "args": "ls"}]
)
def test_nothing_is_imported_by_name(bad):
    with pytest.raises(ValueError, match="unknown type"):
        specs.from_spec(bad, object)


@pytest.mark.parametrize("spec", [{"type": "LogSnrMap"}, 3, "Cosine", [1]])
def test_an_object_of_another_kind_is_refused(spec):
    with pytest.raises(ValueError, match="expected a NoiseSchedule"):
        specs.from_spec(spec, NoiseSchedule)
    assert specs.from_spec({"type": "LogSnrMap"}, NoiseMap) == LogSnrMap()


def test_bad_arguments_give_the_class_s_own_reason():
    with pytest.raises(ValueError, match="shift must be positive"):
        specs.from_spec({"type": "Shifted", "inner": {"type": "Cosine"}, "shift": -1.0}, NoiseSchedule)


def test_what_is_not_registered_is_not_stored():
    @dataclass(frozen=True)
    class Mine(NoiseSchedule):
        def alpha(self, t):
            return 1.0 - t

        def sigma(self, t):
            return t

        def time(self, log_snr):
            return torch.sigmoid(-0.5 * log_snr)

    with pytest.raises(ValueError, match="Mine cannot be stored.*register"):
        specs.to_spec(Mine())

    class Cosine(Mine):
        """A stranger with a known name is still a stranger."""

    with pytest.raises(ValueError, match="cannot be stored"):
        specs.to_spec(Cosine())
    with pytest.raises(ValueError, match="two classes are registered"):
        specs.register(Cosine)


def test_suggestions():
    assert specs.suggestion("rsoe", ["rose", "tulip"]) == " (did you mean 'rose'?)"
    assert specs.suggestion("zzz", ["rose", "tulip"]) == ""
