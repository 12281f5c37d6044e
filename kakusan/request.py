"""Everything that decides a set of samples, beside the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from kakusan.grids import GRIDS
from kakusan.guidance import Guide, Linear, PlusPlus, Rule, Thresholding
from kakusan.pairs import Given
from kakusan.samplers import DDIM, DPMSolverPP, Sampler
from kakusan.specs import from_spec, suggestion, to_spec

Each: TypeAlias = "float | tuple[float, ...]"
Asked: TypeAlias = int | str
T = TypeVar("T")


@dataclass(frozen=True)
class SampleRequest:
    """Everything that decides a set of samples, beside the model.

    Args:
        seeds: one for each sample.
        labels: what each sample is asked to be: a class index, or a text for a model of texts; None for no condition.
        guidance_scale: 1 is the conditional model, 0 the unconditional one; one number, or one for each sample.
        rescale: phi of the guidance rescale; one number, or one for each sample.
        interval: of t in which guidance acts.
        rule: how the two outputs of guidance are mixed.
        negative: one class index or text for each sample, to be led away from in place of no condition.
        mixture: (class index or text, weight) of further conditions to follow; the label's own weight is 1 less theirs.
        guides: further guidance, in order.
        thresholding: how the predicted x0 is kept in range; None leaves it.
        sampler: how to step.
        grid: name of the spacing of the steps.
        num_steps: of the grid.
        batch: samples computed at once.
        given: pictures to start from, one for each sample or one for all, for models trained on pairs.
    """

    seeds: tuple[int, ...]
    labels: tuple[Asked, ...] | None = None
    guidance_scale: Each = 1.0
    rescale: Each = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    rule: Rule = field(default_factory=Linear)
    negative: tuple[Asked, ...] | None = None
    mixture: tuple[tuple[Asked, float], ...] = ()
    guides: tuple[Guide, ...] = ()
    thresholding: Thresholding | None = None
    sampler: Sampler = field(default_factory=lambda: DPMSolverPP(order=2))
    grid: str = "karras"
    num_steps: int = 20
    batch: int = 32
    given: Given | None = None

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("at least one sample must be asked for")
        for name, what in (("labels", "labels"), ("negative", "negative labels")):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.seeds):
                raise ValueError(f"{len(given)} {what} were given for {len(self.seeds)} samples")
        for name, what in (("guidance_scale", "guidance scales"), ("rescale", "rescales")):
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) != len(self.seeds):
                raise ValueError(f"{len(given)} {what} were given for {len(self.seeds)} samples")
        if self.given is not None and len(self.given) not in (1, len(self.seeds)):
            raise ValueError(
                f"{len(self.given)} pictures to start from were given for {len(self.seeds)} samples; give one for each"
            )
        if self.grid not in GRIDS:
            raise ValueError(f"no grid {self.grid!r}{suggestion(self.grid, list(GRIDS))}; there are {', '.join(GRIDS)}")
        if self.num_steps < 1 or self.batch < 1:
            raise ValueError(f"num_steps and batch must be at least 1, got {self.num_steps} and {self.batch}")
        if isinstance(self.rule, PlusPlus) and self.sampler != DDIM(eta=0.0):
            raise ValueError("CFG++ is a way of taking DDIM's steps: use it with the sampler ddim and eta 0")
        if self.mixture and self.labels is None:
            raise ValueError("a mixture of classes adds to the labels; give labels as well")

    def chunks(self) -> list[SampleRequest]:
        """The request cut into batches."""
        cuts = range(0, len(self.seeds), self.batch)
        return [self.part(slice(i, i + self.batch)) for i in cuts]

    def part(self, rows: slice) -> SampleRequest:
        """The request for some of its samples."""
        return replace(
            self,
            seeds=self.seeds[rows],
            given=self.given if self.given is None or len(self.given) == 1 else self.given.part(rows),
            **{name: _cut(getattr(self, name), rows) for name in ("labels", "negative", "guidance_scale", "rescale")},
        )

    def moved(self, places: Mapping[str, str]) -> SampleRequest:
        """The same request where some of the models that guide are elsewhere now."""
        return replace(self, guides=tuple(guide.moved(places) for guide in self.guides))

    @property
    def companions(self) -> tuple[str, ...]:
        """Folders of other models that guide."""
        return tuple(path for guide in self.guides for path in guide.companions())

    @property
    def led_by_labels(self) -> bool:
        """Whether a guide needs the labels, so that a model without classes may be given those of its data."""
        return any(guide.led_by_labels for guide in self.guides)

    @property
    def evaluations(self) -> int:
        """Evaluations of networks for each evaluation of the guided denoiser and each sample, where guidance acts."""
        inside, outside = ([g for g in self.guides if g.inside is where] for where in (True, False))
        count = 1
        for guide in inside:
            count = guide.evaluations(count)
        count *= self._conditions()
        for guide in outside:
            count = guide.evaluations(count)
        return count

    def _conditions(self) -> int:
        """How many conditions classifier-free guidance asks the network for."""
        if self.labels is None and self.negative is None:
            return 1
        followed, scale = 1 + len(self.mixture), self.guidance_scale
        if scale == 1.0 and self.rule.neutral_at_one:
            return followed
        # Only one number for all is known to be 0 before the network is asked.
        return 1 if scale == 0.0 and self.rescale == 0.0 and isinstance(self.rule, Linear) else followed + 1

    def record(self) -> dict[str, Any]:
        """Plain values; `from_record` is the inverse. What is left at its default and came later is left out."""
        values = {
            "seeds": list(self.seeds),
            "labels": _listed(self.labels),
            "guidance_scale": _listed(self.guidance_scale),
            "rescale": _listed(self.rescale),
            "interval": list(self.interval),
            "sampler": to_spec(self.sampler),
            "grid": self.grid,
            "num_steps": self.num_steps,
            "batch": self.batch,
        }
        if self.rule != Linear():
            values["rule"] = to_spec(self.rule)
        if self.negative is not None:
            values["negative"] = list(self.negative)
        if self.mixture:
            values["mixture"] = [list(entry) for entry in self.mixture]
        if self.guides:
            values["guides"] = to_spec(self.guides)
        if self.thresholding is not None:
            values["thresholding"] = to_spec(self.thresholding)
        if self.given is not None:
            values["given"] = self.given.record()
        return values

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> SampleRequest:
        """From the values in a picture.

        Raises:
            ValueError: a value is missing or of the wrong kind.
        """
        if record.get("given") is not None:
            raise ValueError(
                "this picture was made from another one, of which its record holds a hash alone; start from that again "
                "(kakusan transform)"
            )
        try:
            threshold = record.get("thresholding")
            return cls(
                seeds=tuple(int(seed) for seed in record["seeds"]),
                labels=_indices(record["labels"]),
                guidance_scale=_numbers(record["guidance_scale"]),
                rescale=_numbers(record["rescale"]),
                interval=(float(record["interval"][0]), float(record["interval"][1])),
                rule=from_spec(record.get("rule", to_spec(Linear())), Rule),  # type: ignore[type-abstract]
                negative=_indices(record.get("negative")),
                mixture=tuple((_one(label), float(weight)) for label, weight in record.get("mixture", ())),
                guides=tuple(from_spec(guide, Guide) for guide in record.get("guides", ())),  # type: ignore[type-abstract]
                thresholding=None if threshold is None else from_spec(threshold, Thresholding),  # type: ignore[type-abstract]
                sampler=from_spec(record["sampler"], Sampler),  # type: ignore[type-abstract]
                grid=str(record["grid"]),
                num_steps=int(record["num_steps"]),
                batch=int(record["batch"]),
            )
        except (KeyError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"the record in this picture is incomplete or damaged: {error!r}") from None


def _cut(values: T, rows: slice) -> T:
    return values[rows] if isinstance(values, tuple) else values  # type: ignore[return-value]


def _listed(values: object) -> object:
    return list(values) if isinstance(values, tuple) else values


def _indices(values: Sequence[Any] | None) -> tuple[Asked, ...] | None:
    if isinstance(values, str):
        raise TypeError("labels are a list")
    return None if values is None else tuple(_one(value) for value in values)


def _one(value: Any) -> Asked:
    return value if isinstance(value, str) else int(value)


def _numbers(values: Any) -> Each:
    return tuple(float(value) for value in values) if isinstance(values, list) else float(values)
