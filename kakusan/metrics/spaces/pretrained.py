"""The spaces "inception" and "dinov2": networks of others, from weights on this disk. Nothing is ever downloaded."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from kakusan.data.spec import DataSpec
from kakusan.extras import need
from kakusan.metrics.reference import Reference
from kakusan.metrics.spaces.base import NetworkSpace, hash_of_network
from kakusan.metrics.spaces.shapes import check_size
from kakusan.metrics.spaces.store import ALONE, Opening

EXTRA = "features"
INCEPTION, DINOV2 = "KAKUSAN_INCEPTION", "KAKUSAN_DINOV2"
"""Environment variables that say where the weights lie."""

_CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file(torch.load('weights-inception-2015-12-05-6726825d.pth', weights_only=True), 'inception.safetensors')\""
)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDE = 224


class PretrainedSpace(NetworkSpace):
    """Features of a network of others, as they come: published figures whiten nothing.

    Args:
        name: of the space.
        network: in eval mode.
        function: pictures (B, C, H, W) in [-1, 1] -> features (B, D).
        resizer: exactly how pictures come to the network.
        library: what computes the features, with its version.
    """

    def __init__(
        self, name: str, network: nn.Module, function: Callable[[Tensor], Tensor], *, resizer: str, library: str
    ) -> None:
        super().__init__(name, network, function)
        self.resizer = resizer
        self.hash = hash_of_network(network, name, resizer, library)


def to_rgb(spec: DataSpec) -> tuple[Callable[[Tensor], Tensor], str]:
    """(model units (B, C, H, W) -> whole numbers of 0 to 255 (B, 3, H, W) float32, what it does in words).

    Raises:
        ValueError: channels that are not gray, gray and alpha, RGB or RGBA.
    """
    known: dict[tuple[str, int], tuple[Callable[[Tensor], Tensor], str]] = {
        ("L", 1): (_gray, "gray three times"),
        ("I;16", 1): (_gray, "gray three times"),
        ("", 1): (_gray, "gray three times"),
        ("LA", 2): (lambda x: _gray(_on_white(x)), "on white, gray three times"),
        ("RGB", 3): (lambda x: x, "RGB"),
        ("", 3): (lambda x: x, "RGB"),
        ("RGBA", 4): (_on_white, "RGB on white"),
    }
    if (spec.mode, spec.channels) not in known:
        raise ValueError(
            f"pictures of {spec.channels} channels are not what a network trained on photographs sees; use the spaces "
            "'random', 'patches' and 'self-supervised'"
        )
    convert, words = known[(spec.mode, spec.channels)]

    def rounded(x: Tensor) -> Tensor:
        return ((convert(x.clamp(-1.0, 1.0)) + 1.0) * 127.5).round()

    return rounded, f"{words}, 8 bits"


def _gray(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1)


def _on_white(x: Tensor) -> Tensor:
    opaque = (x[:, -1:] + 1.0) / 2.0
    return x[:, :-1] * opaque + (1.0 - opaque)


def find_weights(name: str, variable: str, how: Opening, what: str) -> Path:
    """Where the weights lie: as told, else by the environment variable.

    Raises:
        ValueError: nobody said, or nothing is there.
    """
    told = how.weights or (Path(os.environ[variable]) if os.environ.get(variable) else None)
    if told is None:
        raise ValueError(
            f"the feature space {name!r} needs {what}, which kakusan never downloads; name it as {name}=PATH or in the "
            f"environment variable {variable}"
        )
    if not told.exists():
        raise ValueError(f"the weights of {name!r} are said to be at {told}, but nothing is there")
    return told


def open_inception(reference: Reference, how: Opening = ALONE) -> PretrainedSpace:
    """The space "inception": the network of the Frechet Inception distance (1706.08500), by torch-fidelity.

    Features are the 2048 of the last pooling, of the TensorFlow graph of 2015-12-05, resized as that graph does. The
    weights are those of torch-fidelity's release v0.2.0 turned into a safetensors file, for a .pth file is a pickle and
    the library would run whatever is in it. Given as `inception=PATH` or in KAKUSAN_INCEPTION.

    A Frechet distance of 2048 features wants more pictures than most small data sets have: read it beside its null.

    Raises:
        ValueError: no weights, weights that do not fit, or pictures that are not gray or RGB.
        ImportError: torch-fidelity is missing.
    """
    spec = reference.pool.spec
    check_size(spec)
    rgb, words = to_rgb(spec)
    what = "the weights weights-inception-2015-12-05-6726825d of torch-fidelity as a safetensors file"
    place = find_weights("inception", INCEPTION, how, what)
    try:
        tensors = safetensors_torch.load(place.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{place} is not a safetensors file ({error}); make one of the .pth: {_CONVERT}") from None
    library = need("torch_fidelity", extra=EXTRA, what="the feature space 'inception'")
    # The library reads its weights from a file of its own kind; this one never leaves memory and holds our tensors.
    handed = io.BytesIO()
    torch.save(tensors, handed)
    handed.seek(0)
    try:
        network = library.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=handed)
    except RuntimeError as error:
        raise ValueError(f"the weights in {place} do not fit the network: {str(error)[:300]}") from None

    def function(x: Tensor) -> Tensor:
        found: Tensor = network(rgb(x).to(torch.uint8))[0]
        return found

    resizer = f"{words}; 299 x 299 by TensorFlow 1 bilinear, no antialias"
    return PretrainedSpace(
        "inception", network, function, resizer=resizer, library=f"torch-fidelity {library.__version__}"
    )


def open_dinov2(reference: Reference, how: Opening = ALONE) -> PretrainedSpace:
    """The space "dinov2": the class token of DINOv2 (2304.07193), by transformers; FD-DINOv2 (2306.04675) is over it.

    The weights are a folder with `config.json` and `model.safetensors`, such as that of facebook/dinov2-large, given as
    `dinov2=FOLDER` or in KAKUSAN_DINOV2. Published figures are of the large model.

    Raises:
        ValueError: no weights, weights that do not fit, or pictures that are not gray or RGB.
        ImportError: transformers is missing.
    """
    spec = reference.pool.spec
    check_size(spec)
    rgb, words = to_rgb(spec)
    place = find_weights("dinov2", DINOV2, how, "a folder with config.json and model.safetensors of a DINOv2 model")
    library = need("transformers", extra=EXTRA, what="the feature space 'dinov2'")
    network = _dinov2(library, place)
    side = network.config.patch_size * max(1, round(_SIDE / network.config.patch_size))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_IMAGENET_MEAN, _IMAGENET_STD))

    def function(x: Tensor) -> Tensor:
        resized = F.interpolate(rgb(x), size=(side, side), mode="bicubic", antialias=True, align_corners=False)
        seen = (resized.clamp(0.0, 255.0).round() / 255.0 - mean) / std
        found: Tensor = network(pixel_values=seen).last_hidden_state[:, 0]
        return found

    resizer = f"{words}; {side} x {side} by torch bicubic, antialias, rounded"
    return PretrainedSpace("dinov2", network, function, resizer=resizer, library=f"transformers {library.__version__}")


def _dinov2(library: Any, place: Path) -> Any:
    try:
        network, told = library.Dinov2Model.from_pretrained(
            str(place), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{place} does not hold a DINOv2 model: {str(error)[:300]}") from None
    missing = sorted(told.get("missing_keys", ()))
    if missing:
        # The library would fill them with random numbers and go on.
        raise ValueError(f"{place} does not hold a whole DINOv2 model: {', '.join(map(str, missing[:3]))} missing")
    return network.eval().requires_grad_(False).float()
