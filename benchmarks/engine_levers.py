"""The levers that benchmarks/engine.py measures: what each changes about the plain run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PLAIN = "plain"
TOGETHER, EVERYTHING = "together", "everything"
# A lever joins the others when it gained more than this on its own; less is noise.
WORTH = 1.03

Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Lever:
    """One change to the run it is compared with.

    Args:
        title: for the table.
        settings: sections of the configuration.
        group: of the levers in one group only the best joins the others; "" for a lever that never joins.
        network: it is another network, whose loss at equal steps differs too; joins `everything`, not `together`.
        against: the lever whose last loss is the mark.
        tuned: `kakusan.runtime.tune` (memory kept by the process, the faster of two equally exact matrix libraries).
        fused: the fused optimizer in place of one operation for each tensor.
        fast_convolution: 3x3 convolutions by minimal filtering, where this CPU gains from it.
        environment: variables of the process.
        native_bfloat16: only where the device multiplies bfloat16 itself.
        share: length of the run as a part of the seconds given, for levers that must know their end.
        averages: also measure these widths of the weight average, and the weights themselves.
        note: for the page.
    """

    title: str
    settings: Sections = field(default_factory=dict)
    group: str = ""
    network: bool = False
    against: str = PLAIN
    tuned: bool = False
    fused: bool = False
    fast_convolution: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    native_bfloat16: bool = False
    share: float = 1.0
    averages: tuple[float, ...] = ()
    note: str = ""

    def text(self) -> str:
        """JSON that tells two levers apart."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def read(cls, text: str) -> Lever:
        """The lever of a `text()`."""
        values = json.loads(text)
        return cls(**{**values, "averages": tuple(values["averages"])})


def base(*, width: int, num: int, threads: int, device: str, seed: int) -> dict[str, dict[str, Any]]:
    """The plain run: AdamW, fp32, eager, one average. The rate is constant after the warm-up, so that the curve does
    not depend on when the run will end; the average stands in for the decay.
    """
    return {
        "data": {"source": "flowers", "size": 32, "num": num},
        "model": {"width": width, "multipliers": [1, 2, 2], "depth": 1, "attention_levels": [2]},
        "optim": {"optimizer": "adamw", "rate": 1e-3, "warmup": 30, "decay": 0.0},
        "run": {
            "steps": 10**9,
            "batch": 32,
            "seed": seed,
            "device": device,
            "threads": threads,
            "precision": "fp32",
            "ema": [0.1],
            "measurements": 0,
            "previews": 0,
            "checkpoints": 0,
        },
    }


def _rate(kind: str, rate: float) -> Lever:
    names = {"adamw": "AdamW", "muon": "Muon"}
    return Lever(f"{names[kind]}, rate {rate:g}", {"optim": {"optimizer": kind, "rate": rate}}, group="optimizer")


# A transformer has no levels, so the plain run's are taken back.
_DIT = {"model": {"backbone": "dit", "patch": 2, "width": 192, "multipliers": [], "depth": 2, "attention_levels": None}}

LEVERS: dict[str, Lever] = {
    PLAIN: Lever("plain: AdamW at 1e-3, fp32, eager"),
    # The machine.
    "tuned": Lever("runtime tuned: allocator, matrix library", group="tuned", tuned=True),
    "fused": Lever("fused optimizer", group="fused", fused=True),
    "fast-convolution": Lever("convolutions by minimal filtering", group="convolution", fast_convolution=True),
    "tuned-convolution": Lever(
        "runtime tuned, minimal filtering", group="tuned", tuned=True, fast_convolution=True,
        note="minimal filtering is made of matrix products, so it needs the fast library",
    ),
    "sleeping-threads": Lever(
        "waiting threads sleep (OMP_WAIT_POLICY=PASSIVE)", group="threads", environment={"OMP_WAIT_POLICY": "PASSIVE"},
        note="meant for machines that do other work as well",
    ),
    "bf16": Lever("bf16 autocast", {"run": {"precision": "bf16"}}, group="precision", native_bfloat16=True),
    "compile": Lever("torch.compile", {"engine": {"compile": True}}, group="compile"),
    "channels-last": Lever("channels last", {"engine": {"channels_last": True}}, group="layout"),
    "checkpointing": Lever(
        "activations computed again", {"engine": {"checkpointing": True}}, note="for memory, not for time"
    ),
    # The optimizer.
    "adamw-5e-4": _rate("adamw", 5e-4),
    "adamw-2e-3": _rate("adamw", 2e-3),
    "adamw-4e-3": _rate("adamw", 4e-3),
    "muon-1e-3": _rate("muon", 1e-3),
    "muon-2e-3": _rate("muon", 2e-3),
    "muon-4e-3": _rate("muon", 4e-3),
    "muon-8e-3": _rate("muon", 8e-3),
    "batch-16": Lever("batch 16", {"run": {"batch": 16}}, group="batch"),
    "batch-64": Lever("batch 64", {"run": {"batch": 64}}, group="batch"),
    "decay": Lever(
        "rate falls to zero over the last 40% of a run half as long", {"optim": {"decay": 0.4}}, group="decay",
        share=0.5,
    ),
    "averages": Lever(
        "several averages at once", {"run": {"ema": [0.1, 0.02, 0.05, 0.2]}}, averages=(0.02, 0.05, 0.2)
    ),
    # The objective.
    "logit-normal": Lever("logit-normal times", {"objective": {"times": "logit-normal"}}, group="times"),
    "unstratified": Lever("times not stratified", {"objective": {"stratified": False}}),
    "min-snr": Lever("min-SNR weights", {"objective": {"weighting": "min-snr"}}, group="weighting"),
    "transport": Lever(
        "minibatch transport", {"objective": {"coupling": "transport"}},
        note="the mark pairs noise and data independently, which this lever does not train for",
    ),
    # The data.
    "augment": Lever("EDM augmentation, 0.12", {"data": {"augment": 0.12}}, group="augment",
                     note="for sets that are repeated many times; this run sees each picture a few times"),
    # The network.
    "patch-2": Lever("patch 2 in place of 1", {"model": {"patch": 2}}, group="patch", network=True),
    "edm2": Lever("EDM2's magnitude-preserving U-Net", {"model": {"backbone": "edm2"}}, network=True),
    "dit": Lever("DiT, patch 2", _DIT, network=True),
    "dit-route": Lever(
        "DiT, half of the tokens routed (TREAD)", {"model": {**_DIT["model"], "route": 0.5}}, against="dit",
        network=True,
    ),
    "dit-muon": Lever(
        "DiT, Muon, rate 0.002", {**_DIT, "optim": {"optimizer": "muon", "rate": 2e-3}}, against="dit", network=True
    ),
}  # fmt: skip


def merged(first: Sections, *others: Sections) -> dict[str, dict[str, Any]]:
    """Sections laid over each other, the last on top."""
    found = {name: dict(values) for name, values in first.items()}
    for other in others:
        for name, values in other.items():
            found[name] = {**found.get(name, {}), **values}
    return found


def combined(names: Iterable[str], title: str) -> Lever:
    """All of these levers in one."""
    chosen = list(names)
    parts = [LEVERS[name] for name in chosen]
    return Lever(
        title,
        merged({}, *(part.settings for part in parts)),
        tuned=any(part.tuned for part in parts),
        fused=any(part.fused for part in parts),
        fast_convolution=any(part.fast_convolution for part in parts),
        environment={k: v for part in parts for k, v in part.environment.items()},
        network=any(part.network for part in parts),
        native_bfloat16=any(part.native_bfloat16 for part in parts),
        share=min((part.share for part in parts), default=1.0),
        note=", ".join(chosen) or "no lever gained enough",
    )


def winners(gains: Mapping[str, float], *, network: bool) -> list[str]:
    """Levers to be used together: the best of every group, when it gained more than `WORTH` on its own."""
    best: dict[str, str] = {}
    for name, gain in gains.items():
        lever = LEVERS.get(name)
        if lever is None or not lever.group or gain <= WORTH or (lever.network and not network):
            continue
        if lever.group not in best or gain > gains[best[lever.group]]:
            best[lever.group] = name
    return [name for name in LEVERS if name in best.values()]
