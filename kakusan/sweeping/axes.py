"""What a sweep can vary. An axis reads its values and puts one of them into a setup; a new axis is one entry below."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kakusan.grids import GRIDS
from kakusan.guidance import RULES, DynamicThresholding
from kakusan.model_folder import RAW
from kakusan.pipeline import Pipeline
from kakusan.run_folder import RunFolder, find_model
from kakusan.samplers import DDIM, SAMPLERS
from kakusan.specs import suggestion
from kakusan.sweeping.setups import Setup
from kakusan.sweeping.values import Value, distinct, numbers, said, split
from kakusan.sweeping.ways import FromPicture, SwitchLabel

OFF, EVERY = "none", "all"
GUIDED = {"guidance_scale": 3.0}
"""What repairs of guidance need, to have something to repair."""


@dataclass(frozen=True)
class Subject:
    """What is swept.

    Args:
        run: as it was named: a run, a checkpoint or a model folder.
        pipeline: its model.
    """

    run: Path
    pipeline: Pipeline


@dataclass(frozen=True, kw_only=True)
class Axis(ABC):
    """One setting that takes several values.

    Args:
        name: on the command line.
        what: it is, in a few words.
        guides: whether it acts only where samples follow a class.
        option: of a sweep that it takes the place of, as `Pipeline.request` calls it.
        starts: options that it needs to act at all, where others were not asked for.
    """

    name: str
    what: str
    option: str = ""
    guides: bool = False
    starts: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def read(self, text: str, subject: Subject) -> tuple[Value, ...]:
        """The values that stand after `name=`.

        Raises:
            ValueError: a value that this axis cannot have, or the same one twice.
        """

    @abstractmethod
    def change(self, setup: Setup, value: Value, subject: Subject) -> Setup:
        """The setup with this value.

        Raises:
            ValueError: the value does not go with the rest of the setup.
        """

    def reference(self, values: Sequence[Value]) -> int:
        """Place of the value that pictures are compared with."""
        return 0

    def said(self, value: Value) -> str:
        """The value as it stands beside a picture."""
        return said(value)


@dataclass(frozen=True, kw_only=True)
class Numbers(Axis):
    """An axis of numbers.

    Args:
        put: into a setup.
        near: the value of `reference`; None for the first.
        low: least value.
        high: most.
        whole: whole numbers only.
        off: whether "none" is a value too.
        open_low: the least value itself is refused.
    """

    put: Callable[[Setup, Any], Setup]
    near: float | None = None
    low: float | None = None
    high: float | None = None
    whole: bool = False
    off: bool = False
    open_low: bool = False

    def read(self, text: str, subject: Subject) -> tuple[Value, ...]:
        words = [text] if ":" in text else split(text, self.name)
        values: list[Value] = []
        for word in words:
            if self.off and word == OFF:
                values.append(None)
                continue
            values += [int(n) if self.whole else n for n in numbers(word, self.name, whole=self.whole)]
        for value in values:
            if isinstance(value, (int, float)) and not self._inside(value):
                raise ValueError(f"the axis {self.name} has the value {value:g}; expected {self._range()}")
        return distinct(values, self.name)

    def _inside(self, value: float) -> bool:
        if self.low is not None and (value < self.low or (self.open_low and value == self.low)):
            return False
        return self.high is None or value <= self.high

    def _range(self) -> str:
        least = "" if self.low is None else f"{'more than' if self.open_low else 'at least'} {self.low:g}"
        most = "" if self.high is None else f"at most {self.high:g}"
        return " and ".join(part for part in (least, most) if part)

    def change(self, setup: Setup, value: Value, subject: Subject) -> Setup:
        return self.put(setup, value)

    def reference(self, values: Sequence[Value]) -> int:
        if self.near is None:
            return 0
        near = self.near
        there = [i for i, value in enumerate(values) if isinstance(value, (int, float))]
        return min(there, key=lambda i: abs(float(values[i] or 0.0) - near), default=0)


@dataclass(frozen=True, kw_only=True)
class Names(Axis):
    """An axis of names.

    Args:
        known: the names that there are, for `all` and for suggestions.
        put: into a setup.
        find: brings a word of the command line to the name that is stored; None takes the known names only.
    """

    known: Callable[[Subject], Sequence[str]]
    put: Callable[[Setup, str, Subject], Setup]
    find: Callable[[Subject, str], str] | None = None
    last: bool = False
    """Whether pictures are compared with the last value in place of the first."""

    def read(self, text: str, subject: Subject) -> tuple[Value, ...]:
        known = list(self.known(subject))
        words = known if text.strip() == EVERY else split(text, self.name)
        return distinct([self._found(word, known, subject) for word in words], self.name)

    def _found(self, word: str, known: list[str], subject: Subject) -> str:
        if self.find is not None:
            return self.find(subject, word)
        if word not in known:
            there = ", ".join(known) or "none here"
            raise ValueError(f"the axis {self.name} has no {word!r}{suggestion(word, known)}; there are {there}")
        return word

    def change(self, setup: Setup, value: Value, subject: Subject) -> Setup:
        return self.put(setup, str(value), subject)

    def reference(self, values: Sequence[Value]) -> int:
        return len(values) - 1 if self.last else 0


def _field(name: str) -> Callable[[Setup, Any], Setup]:
    """Puts a value into the request as it is."""
    return lambda setup, value: setup.asking(**{name: value})


def _eta(setup: Setup, value: float) -> Setup:
    if not isinstance(setup.request.sampler, DDIM):
        raise ValueError(f"eta belongs to the sampler ddim, not to {type(setup.request.sampler).__name__}")
    return setup.asking(sampler=replace(setup.request.sampler, eta=value))


def _interval(low: float | None, high: float | None, setup: Setup) -> Setup:
    old = setup.request.interval
    new = (old[0] if low is None else low, old[1] if high is None else high)
    if new[0] > new[1]:
        raise ValueError(
            f"guidance would act from t = {new[0]:g} to {new[1]:g}, which is nowhere; keep interval-low below "
            "interval-high"
        )
    return setup.asking(interval=new)


def _labelled(subject: Subject, word: str) -> str:
    return subject.pipeline.label_name(subject.pipeline.label_index(word))


def _label(setup: Setup, value: str, subject: Subject) -> Setup:
    return setup.asking(labels=(subject.pipeline.label_index(value),))


def _switch(setup: Setup, value: int) -> Setup:
    if not isinstance(setup.way, SwitchLabel):
        raise ValueError("the axis switch needs the label to change to, as in --label daisy --to poppy")
    if value > setup.request.num_steps:
        raise ValueError(f"a switch after step {value} is after the last of {setup.request.num_steps} steps")
    return replace(setup, way=replace(setup.way, after=(value,)))


def _strength(setup: Setup, value: float) -> Setup:
    if not isinstance(setup.way, FromPicture):
        raise ValueError("the axis strength needs a picture to start from: give --image FILE")
    return replace(setup, way=replace(setup.way, strength=value))


def _model(setup: Setup, **changes: Any) -> Setup:
    return replace(setup, model=replace(setup.model, **changes))


def _checkpoints(subject: Subject) -> list[str]:
    folder = _run_of(subject)
    return [] if folder is None else [str(step) for step in folder.steps()]


def _run_of(subject: Subject) -> RunFolder | None:
    """The run that was named, or that a checkpoint belongs to."""
    for path in (subject.run, find_model(subject.run).parent.parent):
        if RunFolder(path).exists():
            return RunFolder(path)
    return None


def _checkpoint(subject: Subject, word: str) -> str:
    folder, steps = _run_of(subject), _checkpoints(subject)
    if word in steps or folder is None:
        return word if word in steps else str(find_model(word))
    if word in ("best", "latest"):
        return str(int(find_model(folder.path / word).name.removeprefix("step-")))
    if "/" in word:
        return str(find_model(word))
    raise ValueError(
        f"the axis checkpoint has no {word!r}{suggestion(word, steps)}; {folder.path} has {', '.join(steps)}, and any "
        "other model is named by its folder"
    )


def _at_checkpoint(setup: Setup, value: str, subject: Subject) -> Setup:
    folder = _run_of(subject)
    inside = folder is not None and value in _checkpoints(subject)
    return _model(setup, folder=folder.checkpoint(int(value)) if folder and inside else Path(value))


def _profiles(subject: Subject) -> list[str]:
    return [*subject.pipeline.facts.profiles, RAW]


# In the order in which they change a setup: a sampler before its eta, a checkpoint before its averages.
AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Names(name="checkpoint", what="steps of the run, best, latest, all, or folders of other models",
              known=_checkpoints, find=_checkpoint, put=_at_checkpoint, last=True),
        Names(name="weights", what="averages that the checkpoint has, and raw", known=_profiles,
              option="weights", put=lambda setup, value, _: _model(setup, weights=value, ema_width=None)),
        Numbers(name="ema-width", what="width of the weight average, rebuilt from the run's snapshots", low=0.0,
                high=0.28, open_low=True, option="weights", put=lambda setup, value: _model(setup, ema_width=value)),
        Numbers(name="seed", what="seed of the first picture", whole=True, option="seed",
                put=lambda setup, value: setup.asking(seeds=(value + setup.request.seeds[0],))),
        Names(name="label", what="classes, or all", known=lambda subject: subject.pipeline.classes, find=_labelled,
              put=_label),
        Names(name="sampler", what="samplers", known=lambda _: list(SAMPLERS), option="sampler",
              put=lambda setup, value, _: setup.asking(sampler=SAMPLERS[value])),
        Numbers(name="eta", what="fresh noise of ddim: 0 none, 1 as DDPM", low=0.0, put=_eta,
                option="eta", starts={"sampler": "ddim"}),
        Names(name="grid", what="spacings of the steps", known=lambda _: list(GRIDS), option="grid",
              put=lambda setup, value, _: setup.asking(grid=value)),
        Numbers(name="steps", what="steps of the sampler", whole=True, low=1, near=1e9, option="num_steps",
                put=_field("num_steps")),
        Numbers(name="switch", what="steps under the first label, before that of --to", whole=True, low=0, near=1e9,
                guides=True, put=_switch),
        Numbers(name="strength", what="how much of a picture is drawn anew: 0 nothing, 1 all", low=0.0, high=1.0,
                near=0.0, put=_strength),
        Numbers(name="guidance-scale", what="1 follows the class as trained, 0 not at all; any real number", near=1.0,
                guides=True, option="guidance_scale", put=_field("guidance_scale")),
        Numbers(name="rescale", what="phi of the guidance rescale; any real number", near=0.0, guides=True,
                option="rescale", starts=GUIDED, put=_field("rescale")),
        Names(name="rule", what="rules of guidance", known=lambda _: list(RULES), guides=True, option="rule",
              starts=GUIDED, put=lambda setup, value, _: setup.asking(rule=RULES[value])),
        Numbers(name="interval-low", what="t below which guidance is off", low=0.0, high=1.0, near=0.0, guides=True,
                starts=GUIDED, put=lambda setup, value: _interval(value, None, setup)),
        Numbers(name="interval-high", what="t above which guidance is off", low=0.0, high=1.0, near=1.0, guides=True,
                starts=GUIDED, put=lambda setup, value: _interval(None, value, setup)),
        Numbers(name="threshold", what="quantile of dynamic thresholding, or none", low=0.0, high=1.0, open_low=True,
                off=True, option="threshold", put=lambda setup, value: setup.asking(
                    thresholding=None if value is None else DynamicThresholding(quantile=value))),
    )
}  # fmt: skip
"""The axes by name."""

ALIASES = {"phi": "rescale", "scale": "guidance-scale", "num-steps": "steps", "guidance": "guidance-scale"}
