"""Networks that a module uses without owning: loaded when first needed, frozen, never saved, trained or averaged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from kakusan.encoders.pretrained.place import CONFIG, Place

T = TypeVar("T")

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Held(Generic[T]):
    """Something of others, made when first asked for.

    torch finds the parts of a module by their type. This is not an `nn.Module`, so the network inside is no part of
    `parameters()`, of `state_dict()` and of what `train()` and averaging touch, which is the whole point: the weights
    of others stay in their folder and as they are. What moves a module to a device does not see it either, so whoever
    asks says where it is wanted. Copies of the module share it: a copy for averaging costs no second network.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []

    def get(self) -> T:
        """The thing itself."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    @property
    def loaded(self) -> bool:
        """Whether anyone has asked."""
        return bool(self._made)

    def __deepcopy__(self, memo: dict[int, Any]) -> Held[T]:
        return self


def on(held: Held[nn.Module], device: torch.device) -> Any:
    """The network, brought to a device."""
    network = held.get()
    if next(network.parameters()).device != device:
        network.to(device)
    return network


def open_config(library: Any, name: str, place: Place) -> Any:
    """The configuration in a folder, what it leaves out filled in.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return getattr(library, name).from_pretrained(str(place.folder), local_files_only=True)
    except Exception as error:
        # Checks of the library raise exceptions of their own kinds.
        raise ValueError(f"{place.folder / CONFIG} is damaged or incomplete: {str(error)[:300]}") from None


def open_network(library: Any, name: str, place: Place, *, precision: str) -> nn.Module:
    """A network of transformers from a folder, whole, frozen and in eval mode.

    Raises:
        ValueError: the folder holds another network, or a part of one.
    """
    with _quiet(library):
        try:
            # The way of attention is named, because a file could name one that is fetched from elsewhere.
            network, told = getattr(library, name).from_pretrained(
                str(place.folder),
                local_files_only=True,
                use_safetensors=True,
                variant=place.variant,
                attn_implementation="eager",
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, ImportError, SafetensorError) as error:
            raise ValueError(f"{place.folder} does not hold a {name}: {str(error)[:300]}") from None
    for what in ("missing_keys", "mismatched_keys"):
        # The library would fill them with random numbers and go on.
        if told.get(what):
            raise ValueError(f"{place.folder} does not hold a whole {name}: {sorted(map(str, told[what]))[:3]} missing")
    network = network.eval().requires_grad_(False).to(PRECISIONS[precision])
    if not all(bool(value.isfinite().all()) for value in network.parameters()):
        raise ValueError(f"{place.folder} holds weights that are not finite in {precision}")
    return network  # type: ignore[no-any-return]


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No progress bars and no advice on the terminal; what the library was told before holds again afterwards."""
    said = library.utils.logging
    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()


def check_precision(precision: str) -> None:
    """Raise a ValueError for a precision that is not known."""
    if precision not in PRECISIONS:
        raise ValueError(f"the precision of an encoder is {', '.join(PRECISIONS)}; got {precision!r}")
