"""What a user holds: a trained model with everything needed to sample it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kakusan import __version__, model_folder, runtime
from kakusan.autoencoders import latents
from kakusan.conditioning import Condition, class_index
from kakusan.data.spec import DataSpec
from kakusan.denoiser import BaseDenoiser
from kakusan.encoders import conditioner, pretrained, vector_data, vectors
from kakusan.grids import GRIDS
from kakusan.guidance import RULES, Guide, Rule
from kakusan.guided import guided
from kakusan.model_folder import Model, ModelFacts
from kakusan.nn.graphed import Graphs, graphs_of
from kakusan.pairs import Given, Pair, PairConditioner
from kakusan.request import Asked, Each, SampleRequest
from kakusan.run_folder import find_model
from kakusan.samplers import SAMPLERS, Sampler, Step, sample_iter
from kakusan.specs import suggestion
from kakusan.train import classifier_folder
from kakusan.train.classifier_folder import StoredClassifier

if TYPE_CHECKING:
    from PIL.Image import Image

# A model folder names its parts by their classes, which are known once they are imported.
KNOWN = (
    latents.LatentSpec,
    conditioner.TextConditioner,
    pretrained.PretrainedText,
    vectors.ImageVectors,
    vector_data.VectorSpec,
)


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
        self.precision = "fp32"
        self._companions: dict[tuple[Path, str | None], Pipeline] = {}
        self._classifiers: dict[Path, StoredClassifier] = {}
        self._watching: list[tuple[contextlib.ExitStack, Callable[[int], None]]] = []

    @property
    def denoiser(self) -> BaseDenoiser:
        return self.model.denoiser

    @property
    def data(self) -> DataSpec:
        return self.facts.data

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes the model can be asked for; empty when it is unconditional."""
        return () if self.model.conditioner is None else self.model.conditioner.classes

    def need_pixels(self, what: str) -> None:
        """Refuse a model of latents.

        Raises:
            ValueError: saying that `what` is of pictures.
        """
        if self.data.networks():
            raise ValueError(f"this is a model of latents, and {what} is of pixels; use a model of pixels")

    @property
    def reads_texts(self) -> bool:
        """Whether the model is asked with texts."""
        return self.model.conditioner is not None and self.model.conditioner.reads_texts

    @property
    def named_classes(self) -> tuple[str, ...]:
        """What labels stand for: the model's classes, or those of its data, to which a classifier may lead it."""
        return self.classes or self.data.classes

    def classes_under(self, guides: Sequence[Guide]) -> tuple[str, ...]:
        """The classes that can be asked for under these guides; empty when there are none."""
        return self.named_classes if any(guide.led_by_labels for guide in guides) else self.classes

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the model."""
        self.model.to(device)
        for network in self.data.networks().values():
            network.to(device)
        self._companions.clear()
        self._classifiers.clear()
        return self

    def companion(self, path: Path, weights: str | None) -> Pipeline:
        """Another model that guides this one, on the same device; loaded once."""
        key = (path, weights)
        if key not in self._companions:
            self._companions[key] = load(path, weights=weights, device=self.device).with_precision(self.precision)
            for stack, seen in self._watching:
                stack.enter_context(self._companions[key].watched(seen))
        return self._companions[key]

    def noisy_classifier(self, path: Path) -> StoredClassifier:
        """A classifier that guides this model, on the same device; loaded once.

        Raises:
            ValueError: no classifier there, or one of other pictures or classes.
        """
        if path not in self._classifiers:
            found = classifier_folder.load(path, device=self.device)
            found.check_fits(self.data, self.named_classes)
            self._classifiers[path] = found
        return self._classifiers[path]

    @contextlib.contextmanager
    def watched(self, seen: Callable[[int], None]) -> Iterator[None]:
        """Tell `seen` the number of samples of each pass through the network, and through those of its companions."""

        def hook(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
            seen(len(arguments[0]))

        with contextlib.ExitStack() as stack:
            stack.callback(self.model.denoiser.backbone.register_forward_pre_hook(hook).remove)
            for companion in self._companions.values():
                stack.enter_context(companion.watched(seen))
            self._watching.append((stack, seen))
            stack.callback(self._watching.pop)
            yield

    def with_precision(self, name: str) -> Pipeline:
        """Compute the network's products in "bf16" or "auto" from now on: faster where the device multiplies bfloat16
        by itself, which "auto" asks for; pictures differ from those of "fp32" by a gray level or so.

        Raises:
            ValueError: another name, or another format than was set before.
        """
        precision = runtime.pick_precision(name, self.device)
        if self.precision not in ("fp32", precision.name):
            raise ValueError(f"this model computes in {self.precision} already; load it again for {precision.name}")
        if precision.name != self.precision:
            precision.around(self.model.denoiser.backbone)
            self.precision = precision.name
            self._companions.clear()
        return self

    def with_graphs(self) -> Pipeline:
        """Replay the network as CUDA graphs in `run` from now on; the pictures stay the same up to rounding.

        Raises:
            ValueError: the model is not on a CUDA device.
        """
        self._graphs = graphs_of(self.model.denoiser.backbone)
        return self

    def label_index(self, label: str | int) -> Asked:
        """What the model is asked for: the index of a class given by name or number, or a text as it is.

        Raises:
            ValueError: no such class, or a model without classes.
        """
        return self._asked(label, self.classes)

    def _asked(self, label: str | int, classes: Sequence[str]) -> Asked:
        if self.reads_texts and classes == self.classes:
            return str(label)
        if not classes:
            raise ValueError("this model was trained without classes; sample it without labels")
        return class_index(classes, label)

    def label_name(self, label: Asked) -> str:
        """What people call it: the name of a class, or the text itself."""
        return label if isinstance(label, str) else self.named_classes[label]

    def request(
        self,
        *,
        labels: Sequence[str | int] | None = None,
        prompts: Sequence[str] | None = None,
        num: int | None = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        rescale: float | Sequence[float] | None = None,
        rule: Rule | str | None = None,
        negative: str | int | Sequence[str | int] | None = None,
        mixture: Mapping[str | int, float] | None = None,
        sampler: Sampler | str | None = None,
        **options: Any,
    ) -> SampleRequest:
        """A checked request; arguments as in `sample`."""
        if prompts is not None:
            labels = self._prompted(labels, prompts, num)
            num = None
        if isinstance(labels, str):
            raise ValueError(
                f"labels is a list with one label for each picture, as in [{labels!r}] * 8; got {labels!r}"
            )
        pictures: Given | None = options.get("given")
        given = {
            name: size
            for name, size in (
                ("labels", None if labels is None else len(labels)),
                ("seeds", None if seeds is None else len(seeds)),
                ("num", num),
                ("given", None if pictures is None or len(pictures) == 1 else len(pictures)),
            )
            if size is not None
        }
        if len(set(given.values())) > 1:
            counts = ", ".join(f"{name} {size}" for name, size in given.items())
            raise ValueError(f"labels, seeds, num and given disagree on how many pictures are wanted ({counts})")
        count = next(iter(given.values()), 1)
        if isinstance(sampler, str):
            if sampler not in SAMPLERS:
                known = ", ".join(SAMPLERS)
                raise ValueError(f"no sampler {sampler!r}{suggestion(sampler, list(SAMPLERS))}; there are {known}")
            sampler = SAMPLERS[sampler]
        if sampler is not None:
            options["sampler"] = sampler
        if labels is None and negative is None and pictures is None and guidance_scale not in (None, 0.0, 1.0):
            raise ValueError("guidance needs labels to guide towards; give labels, or leave guidance_scale out")
        if isinstance(rule, str):
            if rule not in RULES:
                raise ValueError(f"no rule {rule!r}{suggestion(rule, list(RULES))}; there are {', '.join(RULES)}")
            rule = RULES[rule]
        if rule is not None:
            options["rule"] = rule
        if negative is not None:
            several = [negative] * count if isinstance(negative, (str, int)) else negative
            options["negative"] = tuple(self.label_index(label) for label in several)
        if mixture:
            options["mixture"] = tuple((self.label_index(label), float(weight)) for label, weight in mixture.items())
        classes = self.classes_under(options.get("guides", ()))
        return SampleRequest(
            seeds=tuple(seeds) if seeds is not None else tuple(range(seed, seed + count)),
            labels=None if labels is None else tuple(self._asked(label, classes) for label in labels),
            guidance_scale=_each(guidance_scale, 1.0),
            rescale=_each(rescale, 0.0),
            **options,
        )

    def _prompted(
        self, labels: Sequence[str | int] | None, prompts: Sequence[str], num: int | None
    ) -> Sequence[str | int]:
        """The prompts as labels, the only one repeated `num` times."""
        if not self.reads_texts:
            known = f"; it knows the classes {', '.join(self.classes[:8])}" if self.classes else ""
            raise ValueError(f"this model was not trained on texts, so it takes no prompts{known}")
        if labels is not None:
            raise ValueError("labels and prompts exclude each other: a model of texts is asked with prompts")
        if isinstance(prompts, str):
            raise ValueError(f"prompts is a list with one text for each picture, as in [{prompts!r}] * 8")
        return list(prompts) * num if num is not None and len(prompts) == 1 else list(prompts)

    def sample(
        self,
        *,
        labels: Sequence[str | int] | None = None,
        prompts: Sequence[str] | None = None,
        num: int | None = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        num_steps: int = 20,
        sampler: Sampler | str | None = None,
        **options: Any,
    ) -> list[Image]:
        """Pictures, as PIL images.

        Args:
            labels: class names or indices, one for each picture.
            prompts: texts, for a model of texts: one for each picture, or one for `num`.
            num: how many, when there are no labels.
            seed: of the first picture; the k-th has seed + k and does not depend on the others.
            seeds: one for each picture, in place of `seed`.
            guidance_scale: 1 follows the class as trained, above 1 more, 0 not at all; one, or one for each picture.
            num_steps: of the sampler.
            sampler: an object of `kakusan.samplers`, or its name on the command line.
            options: `rescale` (phi), `interval` (of t), `rule` (a name or object of `kakusan.guidance.RULES`),
                `negative` (a class to be led away from, or one for each picture), `mixture` (further classes and their
                weights), `guides` and `thresholding` (objects of `kakusan.guidance`), `grid`, `batch`, `given`
                (pictures to start from, from `given`, for models trained on pairs).

        Raises:
            ValueError: unknown labels or names, or guidance of a model trained without condition dropout.
        """
        x0 = self.sample_tensor(
            labels=labels,
            prompts=prompts,
            num=num,
            seed=seed,
            seeds=seeds,
            guidance_scale=guidance_scale,
            num_steps=num_steps,
            sampler=sampler,
            **options,
        )
        return self.data.to_pil(x0)

    @property
    def pair(self) -> Pair:
        """How the pictures that this model starts from are made.

        Raises:
            ValueError: it starts from noise alone.
        """
        if not isinstance(self.model.conditioner, PairConditioner):
            raise ValueError("this model was not trained on pairs, so it starts from no picture; train one with --pair")
        return self.model.conditioner.pair

    def given(self, pictures: Tensor, *, known: Tensor | None = None, noise: float = 0.0) -> Given:
        """Pictures to start from, for `sample(given=...)`.

        Args:
            pictures: (B, C, *size) in [-1, 1], of the shape `pair.expects(data.shape)`.
            known: (B or 1, 1, *size), 1 or True where the picture is to be kept, for models trained with masks.
            noise: level of the noise that covers them, from 0 to the most of training; for denoising, the noise that
                they have already.

        Raises:
            ValueError: a model without pairs, another shape, or a mask where none is taken.
        """
        return Given(self.pair.spatial(pictures, self.data.shape, known), noise)

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
        return guided(self, request)

    def record(self, request: SampleRequest, **more: Any) -> dict[str, Any]:
        """What a picture carries to be made again: the request, the model's identity and the circumstances."""
        labels = request.labels
        guiding = {path: model_folder.model_hash(find_model(path)) for path in request.companions}
        return {
            **request.record(),
            **({"companions": guiding} if guiding else {}),
            "label_names": None if labels is None else [self.label_name(label) for label in labels],
            **({"prompt": labels[0]} if labels and self.reads_texts else {}),
            "model": self.model_hash,
            "model_path": None if self.path is None else str(self.path),
            "weights": self.weights,
            "dtype": {"fp32": "float32", "bf16": "bfloat16"}[self.precision],
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "kakusan": __version__,
            **more,
        }


def _each(values: float | Sequence[float] | None, default: float) -> Each:
    if values is None:
        return default
    return float(values) if isinstance(values, (int, float)) else tuple(float(value) for value in values)


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
