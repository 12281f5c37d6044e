"""What every text encoder is: texts to token numbers, token numbers to features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class TextFeatures:
    """What a text encoder made of B texts.

    Args:
        values: (B, L, width), one row for each token.
        mask: (B, L) bool, True where a token is real.
        vector: (B, vector_width), the whole text.
    """

    values: Tensor
    mask: Tensor
    vector: Tensor


@dataclass(frozen=True)
class Word:
    """A word of a text (in Japanese, which has no spaces, a token or a run of tokens that belong together).

    Args:
        text: as it was written.
        tokens: places of its tokens in the L of the encoder.
    """

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class TextReport:
    """What happened to a text on its way to token numbers, for whoever asked.

    Args:
        tokens: how many it became.
        cut: how many of them did not fit and were left out.
        unknown: pieces that training never showed the encoder.
        weighted: whether parts of it were weighted.
    """

    tokens: int
    cut: int = 0
    unknown: tuple[str, ...] = field(default_factory=tuple)
    weighted: bool = False

    def notes(self) -> list[str]:
        """One sentence for each thing worth saying; empty when all went well."""
        found = []
        if self.cut:
            found.append(f"the text is too long: its last {self.cut} of {self.tokens} tokens were left out")
        if self.unknown:
            shown = ", ".join(repr(piece) for piece in self.unknown[:5])
            found.append(f"training never showed these pieces of the text: {shown}")
        return found


class TextEncoder(nn.Module):
    """Maker of text features; base class.

    `forward(ids)`: (B, L') int64 as `tokens` makes them, L' at most `length` -> `TextFeatures`. Texts are padded with
    `pad`, whatever stands there has no effect on the features of real tokens nor on the vector. The empty text is valid
    and stands for "no text".

    Attributes:
        width: features of a token.
        vector_width: features of a whole text.
        length: the most tokens of a text, marks for its beginning and end included.
        pad: the number of the token that fills a row.
    """

    width: int
    vector_width: int
    length: int
    pad: int

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, length) int64, cut where they are too long; nothing else is an error."""
        raise NotImplementedError

    def report(self, text: str) -> TextReport:
        """What `tokens` did to a text."""
        raise NotImplementedError

    def words(self, text: str) -> list[Word]:
        """The words of a text that were not cut, in order, with the places of their tokens."""
        raise NotImplementedError

    def forward(self, ids: Tensor) -> TextFeatures:
        raise NotImplementedError
