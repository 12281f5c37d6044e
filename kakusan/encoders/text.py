"""The text tower trained here: a small transformer over the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kakusan.encoders import tokenizer as marks
from kakusan.encoders.base import TextEncoder, TextFeatures, TextReport, Word
from kakusan.encoders.spans import Span, trimmed
from kakusan.encoders.tokenizer import Piece, Tokenizer
from kakusan.nn.attention import SoftmaxAttention
from kakusan.nn.rotary import rotations
from kakusan.nn.transformer import EPS, Transformer
from kakusan.specs import register

# (kind of a piece's last character, kind of the next one's first): these stand in one word.
_JOINED = frozenset(
    {
        (marks.NUMERAL, marks.HAN),  # 五 枚
        (marks.HAN, marks.HIRAGANA),  # 赤 い
        (marks.NUMERAL, marks.HIRAGANA),  # 一 つ
        (marks.KATAKANA, marks.HAN),  # クリーム 色
        (marks.LETTER, marks.DIGIT),
        (marks.DIGIT, marks.LETTER),
        (marks.DIGIT, marks.DIGIT),
        (marks.DIGIT, marks.HAN),  # 5 枚
    }
)
_CONTENT = frozenset({marks.HAN, marks.NUMERAL, marks.HIRAGANA, marks.KATAKANA, marks.LETTER, marks.DIGIT})
_DOUBLES = frozenset({"には", "では", "とは", "のは", "のが", "のを", "のに", "ので"})
# Between two letters these make one word of two: violet-blue, rose's.
_LINKS = frozenset("-'’‐")
_WORDLIKE = (marks.LETTER, marks.DIGIT)


@register
class TextTower(TextEncoder):
    """Tokens -> a bidirectional transformer with rotary positions -> features of tokens; the feature of the end mark,
    through a matrix, is the whole text's.

    Padding is masked, and columns where no text of a batch has a token are never computed: appending padding changes no
    bit of a result. Features of padding are zero.

    Args:
        tokenizer: the JSON string of a `kakusan.encoders.tokenizer.Tokenizer`.
        width: features of a token.
        depth: number of blocks.
        heads: of attention.
        length: the most tokens of a text, both marks included.
        vector_width: features of a whole text.
        dropout: probability of zeroing a change of a token while training.

    Raises:
        ValueError: sizes that do not fit, or a string that is no tokenizer.
    """

    pad = marks.PAD

    def __init__(
        self,
        *,
        tokenizer: str,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        length: int = 64,
        vector_width: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if length < 3 or vector_width < 1:
            raise ValueError(f"a text has at least 3 tokens and 1 feature, got {length} and {vector_width}")
        self.tokenizer = Tokenizer(tokenizer)
        self.width, self.vector_width, self.length = width, vector_width, length
        self.table = nn.Embedding(self.tokenizer.size, width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.blocks = Transformer(width=width, depth=depth, attention=SoftmaxAttention(heads=heads), dropout=dropout)
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.head = nn.Linear(width, vector_width, bias=False)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, length) int64: begin, tokens, end, padding. What does not fit is cut, the end mark stays."""
        ids = torch.full((len(texts), self.length), self.pad, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            whole = [marks.BEGIN, *self.tokenizer.encode(text)[: self.length - 2], marks.END]
            row[: len(whole)] = torch.tensor(whole)
        return ids

    def report(self, text: str) -> TextReport:
        """How many tokens a text became (marks not counted), how many were cut, which pieces training never showed."""
        count = len(self.tokenizer.encode(text))
        return TextReport(count, max(0, count - (self.length - 2)), self.tokenizer.unknown(text))

    def offsets(self, text: str) -> list[Span]:
        """The characters of each token of the row that `tokens` makes, marks included: (0, 0); padding is left out."""
        kept = self.tokenizer.offsets(text)[: self.length - 2]
        return [(0, 0), *(trimmed(text, span) for span in kept), (0, 0)]

    def words(self, text: str) -> list[Word]:
        """The words of a text.

        Spaces and punctuation part words (hyphens and apostrophes between letters do not). In Japanese a word is a run
        of kanji with the hiragana after it, a number with its counter, a run of katakana, a run of hiragana, or a
        particle after another word: とがった is one word, though the tokenizer cuts it behind と and が. A mark such as
        a comma or an emoji is a word of its own.
        """
        words: list[Word] = []
        place = 1
        for group in _grouped(self.tokenizer.pieces(text)):
            count = sum(len(piece.ids) for piece in group)
            kept = tuple(range(place, min(place + count, self.length - 1)))
            written = text[group[0].start : group[-1].end].strip()
            if kept and written:
                words.append(Word(written, kept))
            place += count
        return words

    def forward(self, ids: Tensor) -> TextFeatures:
        """(B, L) int64 -> values (B, L, width), mask (B, L), vector (B, vector_width).

        Raises:
            ValueError: more tokens than `length`.
        """
        if ids.dim() != 2 or not 1 <= ids.shape[1] <= self.length:
            raise ValueError(f"expected token numbers (B, 1 to {self.length}), got {tuple(ids.shape)}")
        mask = ids != self.pad
        mask[:, 0] = True  # A row of nothing still has a place to look at.
        used = ids.shape[1] if ids.is_cuda else int(mask.any(0).nonzero().max()) + 1
        inner = mask[:, :used]
        rotation = rotations((used,), self.blocks.pairs, ids.device)
        x = self.norm(self.blocks(self.table(ids[:, :used]), rotation=rotation, mask=inner))
        values = torch.where(inner[..., None], x, 0.0)
        last = ids.shape[1] - 1 - mask.flip(1).int().argmax(1)
        vector = self.head(x[torch.arange(len(ids), device=ids.device), last])
        missing = ids.shape[1] - used
        return TextFeatures(nn.functional.pad(values, (0, 0, 0, missing)), mask, vector)


def _grouped(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces that make one word together; white space alone is a group that no text has."""
    groups: list[list[Piece]] = []
    for piece in pieces:
        if groups and _together(groups[-1], piece):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return _rejoined(groups)


def _rejoined(groups: Sequence[list[Piece]]) -> list[list[Piece]]:
    """Groups in which signs that look like particles are part of the hiragana after them, unless they follow a word.

    After a word the first sign is a particle, and so are the first two where they make one of `_DOUBLES`.
    """
    joined: list[list[Piece]] = []
    run: list[list[Piece]] = []
    for group in groups:
        first = marks.kind(group[0].text[:1])
        if first == marks.PARTICLE:
            run.append(group)
            continue
        if run and first == marks.HIRAGANA:
            before = joined[-1][-1].text[-1:] if joined else ""
            own = 0
            if before and marks.kind(before) in _CONTENT:
                own = 2 if "".join(part[0].text for part in run[:2]) in _DOUBLES else 1
            group = [piece for part in [*run[own:], group] for piece in part]
            run = run[:own]
        joined += [*run, group]
        run = []
    return joined + run


def _together(group: Sequence[Piece], piece: Piece) -> bool:
    before, after = group[-1].text, piece.text
    if not before.strip() or not after or after[0].isspace():
        return False
    left, right = marks.kind(before[-1]), marks.kind(after[0])
    if after in _LINKS:
        return left in _WORDLIKE
    if before in _LINKS and len(group) > 1:
        return right in _WORDLIKE
    return (left, right) in _JOINED
