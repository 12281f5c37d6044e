"""What a user holds: a trained model with everything needed to sample it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kakusan import __version__, model_folder
from kakusan.conditioning import ClassLabels, Condition
from kakusan.data.spec import DataSpec
from kakusan.denoiser import BaseDenoiser
from kakusan.grids import GRIDS
from kakusan.guidance import ClassifierFree
from kakusan.model_folder import Model, ModelFacts
from kakusan.nn.graphed import Graphs, graphs_of
from kakusan.run_folder import find_model
from kakusan.samplers import SAMPLERS, DPMSolverPP, Sampler, Step, sample_iter
from kakusan.specs import from_spec, suggestion, to_spec

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class SampleRequest:
    """Everything that decides a set of samples, beside the model.

    Args:
        seeds: one for each sample.
        labels: one class index for each sample; None for no condition.
        guidance_scale: 1 is the conditional model, 0 the unconditional one.
        rescale: phi of the guidance rescale.
        interval: of t in which guidance acts.
        sampler: how to step.
        grid: name of the spacing of the steps.
        num_steps: of the grid.
        batch: samples computed at once.
    """

    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None = None
    guidance_scale: float = 1.0
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    sampler: Sampler = field(default_factory=lambda: DPMSolverPP(order=2))
    grid: str = "karras"
    num_steps: int = 20
    batch: int = 32

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("at least one sample must be asked for")
        if self.labels is not None and len(self.labels) != len(self.seeds):
            raise ValueError(f"{len(self.labels)} labels were given for {len(self.seeds)} samples")
        if self.grid not in GRIDS:
            raise ValueError(f"no grid {self.grid!r}{suggestion(self.grid, list(GRIDS))}; there are {', '.join(GRIDS)}")
        if self.num_steps < 1 or self.batch < 1:
            raise ValueError(f"num_steps and batch must be at least 1, got {self.num_steps} and {self.batch}")

    def chunks(self) -> list[SampleRequest]:
        """The request cut into batches."""
        cuts = range(0, len(self.seeds), self.batch)
        return [
            replace(
                self,
                seeds=self.seeds[i : i + self.batch],
                labels=None if self.labels is None else self.labels[i : i + self.batch],
            )
            for i in cuts
        ]

    def record(self) -> dict[str, Any]:
        """Plain values; `from_record` is the inverse."""
        return {
            "seeds": list(self.seeds),
            "labels": None if self.labels is None else list(self.labels),
            "guidance_scale": self.guidance_scale,
            "rescale": self.rescale,
            "interval": list(self.interval),
            "sampler": to_spec(self.sampler),
            "grid": self.grid,
            "num_steps": self.num_steps,
            "batch": self.batch,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> SampleRequest:
        """From the values in a picture.

        Raises:
            ValueError: a value is missing or of the wrong kind.
        """
        try:
            labels = record["labels"]
            return cls(
                seeds=tuple(int(seed) for seed in record["seeds"]),
                labels=None if labels is None else tuple(int(label) for label in labels),
                guidance_scale=float(record["guidance_scale"]),
                rescale=float(record["rescale"]),
                interval=(float(record["interval"][0]), float(record["interval"][1])),
                sampler=from_spec(record["sampler"], Sampler),  # type: ignore[type-abstract]
                grid=str(record["grid"]),
                num_steps=int(record["num_steps"]),
                batch=int(record["batch"]),
            )
        except (KeyError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"the record in this picture is incomplete or damaged: {error!r}") from None


class Pipeline:
    """A trained model, ready to sample.

    Args:
        model: denoiser and conditioner.
        facts: what its folder says.
        weights: which weights these are: an EMA profile, or "raw".
        path: where it was loaded from.
        model_hash: identity of the checkpoint.
    """

    def __init__(
        self, model: Model, facts: ModelFacts, *, weights: str, path: Path | None = None, model_hash: str = ""
    ) -> None:
        self.model, self.facts, self.weights = model.eval(), facts, weights
        self.path, self.model_hash = path, model_hash
        self._graphs: Graphs | None = None

    @property
    def denoiser(self) -> BaseDenoiser:
        return self.model.denoiser

    @property
    def data(self) -> DataSpec:
        return self.facts.data

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes the model can be asked for; empty when it is unconditional."""
        return self.model.conditioner.classes if isinstance(self.model.conditioner, ClassLabels) else ()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the model."""
        self.model.to(device)
        return self

    def with_graphs(self) -> Pipeline:
        """Replay the network as CUDA graphs in `run` from now on; the pictures stay the same up to rounding.

        Raises:
            ValueError: the model is not on a CUDA device.
        """
        self._graphs = graphs_of(self.model.denoiser.backbone)
        return self

    def label_index(self, label: str | int) -> int:
        """Index of a class given by name or number.

        Raises:
            ValueError: no such class, or a model without classes.
        """
        if not isinstance(self.model.conditioner, ClassLabels):
            raise ValueError("this model was trained without classes; sample it without labels")
        return self.model.conditioner.index(label)

    def request(
        self,
        *,
        labels: Sequence[str | int] | None = None,
        num: int | None = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        guidance_scale: float | None = None,
        sampler: Sampler | str | None = None,
        **options: Any,
    ) -> SampleRequest:
        """A checked request; arguments as in `sample`."""
        if isinstance(labels, str):
            raise ValueError(
                f"labels is a list with one label for each picture, as in [{labels!r}] * 8; got {labels!r}"
            )
        given = {
            name: size
            for name, size in (
                ("labels", None if labels is None else len(labels)),
                ("seeds", None if seeds is None else len(seeds)),
                ("num", num),
            )
            if size is not None
        }
        if len(set(given.values())) > 1:
            counts = ", ".join(f"{name} {size}" for name, size in given.items())
            raise ValueError(f"labels, seeds and num disagree on how many pictures are wanted ({counts})")
        count = next(iter(given.values()), 1)
        if isinstance(sampler, str):
            if sampler not in SAMPLERS:
                known = ", ".join(SAMPLERS)
                raise ValueError(f"no sampler {sampler!r}{suggestion(sampler, list(SAMPLERS))}; there are {known}")
            sampler = SAMPLERS[sampler]
        if sampler is not None:
            options["sampler"] = sampler
        if labels is None and guidance_scale not in (None, 0.0, 1.0):
            raise ValueError("guidance needs labels to guide towards; give labels, or leave guidance_scale out")
        return SampleRequest(
            seeds=tuple(seeds) if seeds is not None else tuple(range(seed, seed + count)),
            labels=None if labels is None else tuple(self.label_index(label) for label in labels),
            guidance_scale=1.0 if guidance_scale is None else float(guidance_scale),
            **options,
        )

    def sample(
        self,
        *,
        labels: Sequence[str | int] | None = None,
        num: int | None = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        guidance_scale: float | None = None,
        num_steps: int = 20,
        sampler: Sampler | str | None = None,
        **options: Any,
    ) -> list[Image]:
        """Pictures, as PIL images.

        Args:
            labels: class names or indices, one for each picture.
            num: how many, when there are no labels.
            seed: of the first picture; the k-th has seed + k and does not depend on the others.
            seeds: one for each picture, in place of `seed`.
            guidance_scale: 1 follows the class as trained, above 1 more, 0 not at all.
            num_steps: of the sampler.
            sampler: an object of `kakusan.samplers`, or its name on the command line.
            options: `rescale`, `interval`, `grid`, `batch`.

        Raises:
            ValueError: unknown labels or names, or guidance of a model trained without condition dropout.
        """
        x0 = self.sample_tensor(
            labels=labels,
            num=num,
            seed=seed,
            seeds=seeds,
            guidance_scale=guidance_scale,
            num_steps=num_steps,
            sampler=sampler,
            **options,
        )
        return self.data.to_pil(x0)

    def sample_tensor(self, **arguments: Any) -> Tensor:
        """Samples (B, C, *size) in model units; arguments as in `sample`."""
        return self.run(self.request(**arguments))

    def run(self, request: SampleRequest) -> Tensor:
        """The samples of a request, (B, C, *size), on the CPU."""
        found = []
        with contextlib.nullcontext() if self._graphs is None else self._graphs.active():
            for chunk in request.chunks():
                for step in self.steps(chunk):
                    last = step.x_s
                found.append(last.cpu())
        return torch.cat(found)

    def steps(self, request: SampleRequest) -> Iterator[Step]:
        """Every step of one batch."""
        denoiser, cond = self.guided(request)
        grid = GRIDS[request.grid](denoiser.schedule, request.num_steps)
        shape = (len(request.seeds), *self.data.shape)
        return sample_iter(denoiser, request.sampler, grid, shape, cond, seeds=list(request.seeds), device=self.device)

    def guided(self, request: SampleRequest) -> tuple[BaseDenoiser, Condition | None]:
        """The denoiser with the guidance of a request, and the condition to follow."""
        conditioner = self.model.conditioner
        if conditioner is None:
            if request.labels is not None or request.guidance_scale != 1.0:
                raise ValueError("this model was trained without classes; sample it without labels and guidance")
            return self.denoiser, None
        with torch.no_grad():
            if request.labels is None:
                return self.denoiser, conditioner.null(len(request.seeds))
            least, most = min(request.labels), max(request.labels)
            if self.classes and not 0 <= least <= most < len(self.classes):
                raise ValueError(
                    f"labels run from {least} to {most}; the model has classes 0 to {len(self.classes) - 1}"
                )
            cond = conditioner(torch.tensor(request.labels, device=self.device))
            guidance = ClassifierFree(request.guidance_scale, request.rescale, request.interval)
            if guidance.off:
                return self.denoiser, cond
            return guidance(self.denoiser, conditioner.null()), cond

    def record(self, request: SampleRequest, **more: Any) -> dict[str, Any]:
        """What a picture carries to be made again: the request, the model's identity and the circumstances."""
        labels = request.labels
        return {
            **request.record(),
            "label_names": None if labels is None else [self.classes[label] for label in labels],
            "model": self.model_hash,
            "model_path": None if self.path is None else str(self.path),
            "weights": self.weights,
            "dtype": "float32",
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "kakusan": __version__,
            **more,
        }


def load(path: str | Path, *, weights: str | None = None, device: torch.device | str = "cpu") -> Pipeline:
    """Load a run, a checkpoint or a model folder.

    Args:
        path: for a run, its newest checkpoint is taken.
        weights: an EMA profile or "raw"; the default EMA profile when None.
        device: where to put the model.

    Raises:
        ValueError: no model there, or a damaged one.
    """
    folder = find_model(path)
    model, facts, chosen = model_folder.read(folder, weights=weights)
    pipeline = Pipeline(model, facts, weights=chosen, path=folder, model_hash=model_folder.model_hash(folder))
    return pipeline.to(device)
