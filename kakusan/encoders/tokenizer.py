"""Texts to token numbers: a byte-level BPE of one's own, for English and Japanese together.

Byte pairs are merged as in Sennrich et al. 2016 (arXiv 1508.07909), over bytes as in GPT-2, by the library
`tokenizers`. Every text of Unicode is some sequence of the 256 byte tokens, so nothing is ever out of vocabulary.

Before that a text is normalised (NFKC, lower case, runs of white space to one space, none at the ends) and cut into
pieces that no token crosses. Spaces, digits and punctuation cut, as usual. Japanese has no spaces: there a change of
script cuts (kanji, hiragana, katakana), kanji numerals stand alone, and so do the particles `の と を は が に で`.
So `五枚の赤い花びらと` is 五 枚 の 赤 い 花 びら と: a number or a colour never melts into its noun, however
often the two were seen together. A few hiragana words are cut as well (はす: は す), which costs a token.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kakusan.extras import need

PAD, BEGIN, END = 0, 1, 2
"""Marks that no text can contain: they are numbers only, so writing their names has no effect."""
MARKS = 3
SIZE = 2048
"""Tokens of a vocabulary unless told otherwise: 256 bytes and the commonest pieces of a few thousand captions."""
MOST_WORDS = 65536
"""Pieces remembered as seen; the rarest are forgotten first."""
MIN_FREQUENCY = 2
LONGEST_SHOWN = 32

NUMERALS = "〇一二三四五六七八九十百千万億"
PARTICLES = "のとをはがにで"
_PIECES = "|".join(
    [
        f"[{NUMERALS}]+",
        f"[{PARTICLES}]",
        rf"[[\p{{Han}}々]&&[^{NUMERALS}]]+",
        rf"[\p{{Hiragana}}&&[^{PARTICLES}]]+",
        r"[\p{Katakana}ー]+",
        r" ?[[\p{L}\p{M}]&&[^\p{Han}々\p{Hiragana}\p{Katakana}ー]]+",
        r" ?\p{N}",
        r" ?\p{P}",
        r" ?(?![\s\p{L}\p{M}\p{N}\p{P}])\X",
        r"\s+",
    ]
)
_SURROGATES = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Piece:
    """A part of a text that no token crosses.

    Args:
        start: where it begins in the text as written.
        end: where it ends there.
        text: normalised, with the space before it, if any.
        ids: numbers of its tokens.
    """

    start: int
    end: int
    text: str
    ids: tuple[int, ...]


class Tokenizer:
    """Byte-level BPE; equal to any other made from the same JSON string.

    Args:
        stored: the JSON string that `train` made; `.json` gives it back.

    Raises:
        ValueError: the string is none of those.
    """

    def __init__(self, stored: str) -> None:
        try:
            facts = json.loads(stored)
            bpe, words = facts["bpe"], facts["words"]
            self._own = len(bpe["model"]["vocab"])
            self._words = frozenset(words)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"this is not a tokenizer that kakusan wrote: {error!r}") from None
        self.json = stored
        self._bpe = json.dumps(bpe, ensure_ascii=False)

    def __getstate__(self) -> str:
        return self.json

    def __setstate__(self, stored: str) -> None:
        self.__init__(stored)  # type: ignore[misc]

    @functools.cached_property
    def _made(self) -> Any:
        # Imported when a text comes: features that are already cached need no package.
        library = need("tokenizers", extra="text", what="a text encoder")
        try:
            return library.Tokenizer.from_str(self._bpe)
        except Exception as error:
            raise ValueError(f"this is not a tokenizer that kakusan wrote: {error!r}") from None

    @classmethod
    def train(cls, texts: Sequence[str], *, size: int = SIZE) -> Tokenizer:
        """The tokenizer of some texts, in any mixture of languages; equal texts give an equal one.

        Args:
            texts: what it shall be good at.
            size: the most tokens, marks and the 256 bytes included. Pairs seen once are not merged.

        Raises:
            ImportError: the `text` extra is missing.
            ValueError: a size without room for the bytes.
        """
        library = need("tokenizers", extra="text", what="a tokenizer")
        if size < 256 + MARKS:
            raise ValueError(f"a vocabulary has at least {256 + MARKS} tokens (bytes and marks), got {size}")
        made = _empty(library)
        trainer = library.trainers.BpeTrainer(
            vocab_size=size - MARKS,
            min_frequency=MIN_FREQUENCY,
            special_tokens=[],
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        given = [_prepared(text)[0] for text in texts]
        made.train_from_iterator(given, trainer)
        counts: Counter[str] = Counter()
        for text in given:
            counts.update(part for part, _ in made.pre_tokenizer.pre_tokenize_str(made.normalizer.normalize_str(text)))
        seen: Counter[str] = Counter()
        for part, times in counts.items():
            seen[made.decoder.decode([part]).strip()] += times
        kept = sorted(sorted(seen, key=lambda word: (-seen[word], word))[:MOST_WORDS])
        facts = {"bpe": json.loads(made.to_str()), "words": [word for word in kept if word]}
        return cls(json.dumps(facts, ensure_ascii=False, sort_keys=True))

    @property
    def size(self) -> int:
        """Number of tokens, marks included."""
        return self._own + MARKS

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without marks."""
        ids: list[int] = self._made.encode(_prepared(text)[0]).ids
        return [number + MARKS for number in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token numbers: `normalise(text)` for those of `text`; marks are skipped.

        Raises:
            ValueError: a number outside the vocabulary.
        """
        for number in ids:
            if not 0 <= number < self.size:
                raise ValueError(f"token {number} is outside the vocabulary of {self.size}")
        text: str = self._made.decode([number - MARKS for number in ids if number >= MARKS])
        return text.removeprefix(" ")

    def normalise(self, text: str) -> str:
        """What a text becomes before it is cut into tokens: NFKC, lower case, single spaces, none at the ends."""
        prepared, _ = _prepared(text)
        found: str = self._made.normalizer.normalize_str(prepared)
        return found.removeprefix(" ")

    def pieces(self, text: str) -> list[Piece]:
        """The pieces of a text, in order; each token belongs to exactly one."""
        prepared, shift = _prepared(text)
        return [
            Piece(max(0, p.start + shift), max(0, p.end + shift), p.text, tuple(number + MARKS for number in p.ids))
            for p in _pieces(self._made, prepared)
        ]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters of the text as written behind each number of `encode`; bytes of one character share it."""
        prepared, shift = _prepared(text)
        found = self._made.encode(prepared).offsets
        return [(max(0, start + shift), max(0, end + shift)) for start, end in found]

    def unknown(self, text: str) -> tuple[str, ...]:
        """The pieces of a text that no training text had, normalised, each once; of long ones the beginning."""
        found = (piece.text.strip() for piece in self.pieces(text))
        return tuple(dict.fromkeys(_short(word) for word in found if word and word not in self._words))


def _short(word: str) -> str:
    return word if len(word) <= LONGEST_SHOWN else word[: LONGEST_SHOWN - 3] + "..."


def _empty(library: Any) -> Any:
    made = library.Tokenizer(library.models.BPE())
    made.normalizer = library.normalizers.Sequence(
        [
            library.normalizers.NFKC(),
            library.normalizers.Lowercase(),
            library.normalizers.Replace(library.Regex(r"\s+"), " "),
            library.normalizers.Strip(left=False, right=True),
        ]
    )
    made.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(_PIECES), "isolated"),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = library.decoders.ByteLevel()
    return made


def _prepared(text: str) -> tuple[str, int]:
    """The text with a space before it where words have one, and how far places moved.

    A word is then the same token at the beginning as in the middle of a text. Lone surrogates, which no encoding has,
    become U+FFFD.
    """
    text = _SURROGATES.sub(_REPLACEMENT, text)
    bare = text.lstrip()
    shift = len(text) - len(bare)
    if bare and kind(bare[0]) not in (HAN, HIRAGANA, KATAKANA, NUMERAL, PARTICLE):
        return " " + bare, shift - 1
    return bare, shift


def _pieces(made: Any, prepared: str) -> list[Piece]:
    """Pieces of a prepared text, with places in it and without room for marks."""
    encoded = made.encode(prepared)
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for word, number, (start, end) in zip(encoded.word_ids, encoded.ids, encoded.offsets, strict=True):
        groups.setdefault(word, []).append((number, start, end))
    found = []
    for parts in groups.values():
        ids, starts, ends = zip(*parts, strict=True)
        found.append(Piece(min(starts), max(ends), made.decode(list(ids)), ids))
    return found


HAN, NUMERAL, HIRAGANA, PARTICLE, KATAKANA, LETTER, DIGIT, SPACE, OTHER = (
    "han", "numeral", "hiragana", "particle", "katakana", "letter", "digit", "space", "other",
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def kind(character: str) -> str:
    """What a character is, for deciding which pieces make a word."""
    normal = unicodedata.normalize("NFKC", character)[:1]
    if not normal or normal.isspace():
        return SPACE
    if normal in NUMERALS:
        return NUMERAL
    if normal in PARTICLES:
        return PARTICLE
    name = unicodedata.name(normal, "")
    for start, found in (("CJK UNIFIED", HAN), ("HIRAGANA", HIRAGANA), ("KATAKANA", KATAKANA)):
        if name.startswith(start):
            return found
    if normal == "々":
        return HAN
    if normal.isnumeric():
        return DIGIT
    return LETTER if unicodedata.category(normal)[0] in "LM" else OTHER
