"""What the bits of a network's output depend on beside its weights, recorded and set again."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from kakusan.extras import need

if TYPE_CHECKING:
    from kakusan.pipeline import Pipeline


def identity(pipeline: Pipeline) -> str:
    """16 hexadecimal digits that tell one model, with one choice of weights, from another."""
    found = hashlib.sha256()
    if pipeline.model_hash:
        found.update(f"{pipeline.model_hash}:{pipeline.weights}".encode())
    else:
        found.update(repr(pipeline.data).encode())
        for name, value in pipeline.model.state_dict().items():
            found.update(f"{name}:{tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def circumstances(pipeline: Pipeline) -> dict[str, Any]:
    """The rest: another value of any of these may round the network's output differently."""
    constriction = need("constriction", extra="codec", what="the lossless codec")
    from importlib.metadata import PackageNotFoundError, version

    try:
        coder = version(constriction.__name__)
    except PackageNotFoundError:
        coder = "unknown"
    return {
        "constriction": coder,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": pipeline.device.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "matmul": torch.get_float32_matmul_precision(),
    }


@contextlib.contextmanager
def again(pipeline: Pipeline, header: Mapping[str, Any]) -> Iterator[list[str]]:
    """Set what can be set as it was when a file was written; yields what could not, and warns of it."""
    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(int(header["threads"]))
        torch.set_float32_matmul_precision(str(header["matmul"]))
        now = circumstances(pipeline)
        other = [f"{key} {header[key]!r} (here {value!r})" for key, value in now.items() if header[key] != value]
        if other:
            warnings.warn(
                f"this file was written with {', '.join(other)}. The network may round differently here, and then the "
                "pictures cannot be decoded; they are checked, so wrong ones are never returned",
                stacklevel=4,
            )
        yield other
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(matmul)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Kernels that give the same bits whenever they are given the same numbers."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = cudnn
