"""The entropy coder: a stack of bits that symbols are pushed to and popped from, each under its own distribution.

Asymmetric numeral systems (Duda 2013, arXiv 1311.2540), by the library `constriction`. A pop from a stack of random
bits is an exact draw from the distribution, and the push of what was drawn gives the same bits back: this is what
bits-back coding stands on (Townsend et al. 2019, arXiv 1901.04866).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from kakusan.extras import need

Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.signedinteger[Any]]]"
Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.floating[Any]]]"
Words: TypeAlias = "np.ndarray[Any, np.dtype[np.uint32]]"

_INSIDE = 7.0
"""Draws lie within this many standard deviations: the library's smallest probability, 2^-24, stands at 5.3."""
_REACH = 48.0
"""Symbols further from the mean, which only a very wrong model meets, are escaped and cost about 60 bits."""
_HALF = 1 << 16
_CELLS = 1 << 20


class Underflow(Exception):
    """More bits were popped than the stack holds; what was popped cannot be pushed back."""


class Undecodable(ValueError):
    """The bits and the model do not belong together."""


class Stack:
    """Symbols in, symbols out, last in first out. All arrays are one-dimensional.

    A pop and the push of the same arguments are exact inverses. Means and standard deviations are in units of symbols.

    Args:
        words: 32-bit words of a stack saved by `words`; empty when None.
        guarded: whether a pop that reaches the bottom raises `Underflow`, as an encoder needs.

    Raises:
        ImportError: `constriction` is not installed.
        Undecodable: words that no stack gives.
    """

    def __init__(self, words: Words | None = None, *, guarded: bool = True) -> None:
        library = need("constriction", extra="codec", what="the lossless codec").stream
        self._models, self._guarded = library.model, guarded
        self.lowest = math.inf
        """Fewest bits held since it was made or copied."""
        try:
            self._coder = library.stack.AnsCoder() if words is None else library.stack.AnsCoder(words)
        except ValueError as error:
            raise Undecodable(f"these are not the words of a coder: {error}") from None

    @property
    def bits(self) -> int:
        """Size of the stack in bits, a multiple of 32."""
        return int(self._coder.num_bits())

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return bool(self._coder.is_empty())

    def words(self) -> Words:
        """Everything on the stack, as 32-bit words."""
        return np.asarray(self._coder.get_compressed(), np.uint32)

    def copy(self) -> Stack:
        """The same stack, to go back to."""
        other = object.__new__(Stack)
        other._models, other._guarded, other._coder = self._models, self._guarded, self._coder.clone()
        other.lowest = math.inf
        return other

    def become(self, other: Stack) -> None:
        """Take the content of a copy."""
        self._coder = other._coder

    def _push(self, symbols: Integers, *model: Any) -> None:
        try:
            self._coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), *model)
        except (KeyError, ValueError) as error:
            raise Undecodable(f"a symbol lies outside its distribution: {error}") from None

    def _pop(self, *model: Any) -> Integers:
        symbols = self._coder.decode(*model)
        # Below two words the coder's state is no longer the one that a push would restore.
        if self._guarded and self._coder.num_words() < 2:
            raise Underflow
        self.lowest = min(self.lowest, self.bits)
        return np.asarray(symbols, np.int64)

    def push_normal(self, symbols: Integers, mean: Floats, std: float) -> None:
        """Push draws of a rounded Gaussian, cut off in the far tails. The inverse of `pop_normal`."""
        centre, family = self._normal(mean, std, _INSIDE)
        self._push(symbols - centre, family, mean - centre)

    def pop_normal(self, mean: Floats, std: float) -> Integers:
        """Draw from a Gaussian rounded to integers."""
        centre, family = self._normal(mean, std, _INSIDE)
        return centre + self._pop(family, mean - centre)

    def _normal(self, mean: Floats, std: float, inside: float) -> tuple[Integers, Any]:
        # Relative to the nearest integer: every symbol in range takes 2^-24 of the mass, so the range has to be short.
        reach = int(np.ceil(inside * std)) + 1
        return np.rint(mean).astype(np.int64), self._models.QuantizedGaussian(-reach, reach, std=std)

    def push_any(self, symbols: Integers, mean: Floats, std: Floats) -> None:
        """Push any integers under a rounded Gaussian, however far from its mean. The inverse of `pop_any`."""
        centre, reach, family = self._any(mean, std)
        offset = symbols - centre
        beyond = np.abs(offset) >= reach
        if beyond.any():
            further = np.abs(offset[beyond]) - reach
            if int(further.max()) >= _HALF**2:
                raise ValueError("the model's output is astronomically far from the picture; it cannot code it")
            self.push_uniform(further // _HALF, _HALF)
            self.push_uniform(further % _HALF, _HALF)
        self._push(np.clip(offset, -reach, reach), family, mean - centre, std)

    def pop_any(self, mean: Floats, std: Floats) -> Integers:
        """Pop what `push_any` pushed."""
        centre, reach, family = self._any(mean, std)
        offset = self._pop(family, mean - centre, std)
        beyond = np.abs(offset) == reach
        if beyond.any():
            low = self.pop_uniform(int(beyond.sum()), _HALF)
            high = self.pop_uniform(int(beyond.sum()), _HALF)
            offset[beyond] += np.sign(offset[beyond]) * (low + _HALF * high)
        return centre + offset

    def _any(self, mean: Floats, std: Floats) -> tuple[Integers, int, Any]:
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and np.abs(mean).max(initial=0.0) < 2.0**40):
            raise ValueError("the model's output is not finite or absurdly large; it cannot code pictures")
        reach = int(np.ceil(_REACH * std.max(initial=1.0))) + 1
        return np.rint(mean).astype(np.int64), reach, self._models.QuantizedGaussian(-reach, reach)

    def push_uniform(self, symbols: Integers, size: int) -> None:
        """Push integers in [0, size), all alike."""
        if size > 1:
            self._push(symbols, self._models.Uniform(size))

    def pop_uniform(self, count: int, size: int) -> Integers:
        """Pop what `push_uniform` pushed."""
        return self._pop(self._models.Uniform(size), count) if size > 1 else np.zeros(count, np.int64)

    def push_table(self, symbols: Integers, size: int, table: Callable[[slice], Floats]) -> None:
        """Push integers in [0, size); `table(rows)` gives their probabilities (rows, size)."""
        for rows in reversed(_blocks(len(symbols), size)):
            self._push(symbols[rows], self._models.Categorical(perfect=False), table(rows))

    def pop_table(self, count: int, size: int, table: Callable[[slice], Floats]) -> Integers:
        """Pop what `push_table` pushed."""
        parts = [self._pop(self._models.Categorical(perfect=False), table(rows)) for rows in _blocks(count, size)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _blocks(count: int, size: int) -> list[slice]:
    """Rows in blocks whose tables stay small."""
    step = max(1, _CELLS // size)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
