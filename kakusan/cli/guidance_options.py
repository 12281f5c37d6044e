"""Options of guidance, the same for every verb that draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from kakusan.config import MaybeFloat, MaybeInts, MaybePath, MaybeText


@dataclass(frozen=True)
class GuidanceOptions:
    """How pictures are led; all of it may be combined.

    Args:
        guidance_scale: 1 follows the class as trained, above 1 more, 0 not at all; any real number. 1 when not given.
        rescale: phi of the guidance rescale (Lin et al. 2023).
        interval: t between which guidance acts, all of it.
        rule: how the outputs with and without the class are mixed: linear, apg, zero-star or plus-plus (with --sampler
            ddim; its scale is meant for 0 to 1).
        apg_parallel: of --rule apg: weight of the part along the picture, which raises saturation; 0 when not given.
        apg_momentum: of --rule apg: share of the last step's difference; -0.5 when not given.
        apg_limit: of --rule apg: largest root mean square of the difference; none when not given.
        negative: a class to be led away from, in place of no class.
        mix: LABEL=WEIGHT of further classes to follow; the label's own weight is 1 less theirs.
        threshold: keep the predicted picture in range by this quantile of its values (Imagen takes 0.995).
        clamp: keep it in range by cutting.
        weaker: a worse model of the same data to be led away from (autoguidance), such as an early checkpoint.
        weaker_weights: an EMA profile of it, or raw; without --weaker, of this run itself.
        weaker_scale: 1 is off; 2 when not given.
        without_attention: scale of guidance away from the network without its self-attention; 1 is off, 2 is usual.
        attention_layers: which self-attention layers, 0 is the first; all when not given.
        classifier: a folder of kakusan train-classifier, which leads to --label, also a model without classes.
        classifier_scale: 0 is off; 1 when not given.
    """

    guidance_scale: MaybeFloat = None
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    rule: str = "linear"
    apg_parallel: MaybeFloat = None
    apg_momentum: MaybeFloat = None
    apg_limit: MaybeFloat = None
    negative: MaybeText = None
    mix: tuple[str, ...] = ()
    threshold: MaybeFloat = None
    clamp: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    weaker: MaybePath = None
    weaker_weights: MaybeText = None
    weaker_scale: MaybeFloat = None
    without_attention: MaybeFloat = None
    attention_layers: MaybeInts = None
    classifier: MaybePath = None
    classifier_scale: MaybeFloat = None

    def arguments(self, run: Path) -> dict[str, Any]:
        """The keyword arguments of `Pipeline.request` that these options mean, for a model of `run`.

        Raises:
            ValueError: options that do nothing, exclude each other or name nothing that there is.
        """
        given = {
            "guidance_scale": self.guidance_scale,
            "rescale": self.rescale,
            "interval": self.interval,
            "rule": self._rule(),
            "negative": self.negative,
            "mixture": self._mixture(),
            "guides": self._guides(run),
            "thresholding": self._thresholding(),
        }
        usual: dict[str, Any] = {"negative": None, "mixture": {}, "guides": (), "thresholding": None, "rule": "linear"}
        return {name: value for name, value in given.items() if name not in usual or usual[name] != value}

    def _rule(self) -> Any:
        parts = {"parallel": self.apg_parallel, "momentum": self.apg_momentum, "limit": self.apg_limit}
        named = {name: value for name, value in parts.items() if value is not None}
        if not named:
            return self.rule
        if self.rule != "apg":
            raise ValueError(f"--apg-{next(iter(named))} belongs to --rule apg, not to {self.rule}")
        from kakusan.guidance import Projected

        return Projected(**named)

    def _mixture(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for entry in self.mix:
            label, equals, weight = entry.rpartition("=")
            try:
                if not (label and equals):
                    raise ValueError
                found[label] = float(weight)
            except ValueError:
                raise ValueError(f"--mix takes LABEL=WEIGHT, as in --mix rose=0.5; got {entry!r}") from None
        return found

    def _guides(self, run: Path) -> tuple[Any, ...]:
        _refuse_alone("attention_layers", self.attention_layers, "without_attention", self.without_attention)
        _refuse_alone("classifier_scale", self.classifier_scale, "classifier", self.classifier)
        worse = self.weaker if self.weaker is not None or self.weaker_weights is None else run
        _refuse_alone("weaker_scale", self.weaker_scale, "weaker", worse)
        if self.without_attention is None and worse is None and self.classifier is None:
            return ()
        from kakusan.guidance import ByClassifier, Weaker, WithoutAttention
        from kakusan.run_folder import find_model

        found: list[Any] = []
        if self.without_attention is not None:
            found.append(WithoutAttention(self.without_attention, self.attention_layers, self.interval))
        if worse is not None:
            # The checkpoint itself, for what a run's newest one is changes with time.
            model, scale = str(find_model(worse)), 2.0 if self.weaker_scale is None else self.weaker_scale
            found.append(Weaker(model, self.weaker_weights, scale, self.interval))
        if self.classifier is not None:
            scale = 1.0 if self.classifier_scale is None else self.classifier_scale
            found.append(ByClassifier(str(self.classifier), scale, self.interval))
        return tuple(found)

    def _thresholding(self) -> Any:
        if self.threshold is not None and self.clamp:
            raise ValueError("--threshold and --clamp exclude each other")
        if self.threshold is None and not self.clamp:
            return None
        from kakusan.guidance import DynamicThresholding, StaticThresholding

        return StaticThresholding() if self.threshold is None else DynamicThresholding(self.threshold)


def _refuse_alone(name: str, value: object, needed: str, there: object) -> None:
    if value is not None and there is None:
        one, other = (text.replace("_", "-") for text in (name, needed))
        raise ValueError(f"--{one} does nothing without --{other}")
