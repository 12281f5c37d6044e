"""Captions: texts that belong to pictures, several of each if need be, in any language.

They come from columns of a table (`caption`, `captions`, `caption_ja`, `caption_2`), from a text file beside the
picture with one caption a line, or from the name of its class put into a template. What is written is kept as it is:
only a mark of byte order and white space around a line of a text file are dropped.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

LONGEST = 100_000
"""Characters of a caption; a longer one is taken for a mistake."""
MOST = 1000
"""Captions of one picture; more are taken for a mistake."""
MOST_BYTES = 2**20
"""Bytes of a text file beside a picture."""

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "en": ("a picture of a {class}", "a {class}"),
    "ja": ("{class}の写真", "{class}"),
}
"""Language -> ways to make a caption from the name of a class."""

_FAMILIES = ("caption", "text")
_COLUMN = re.compile(r"(?P<family>caption|text)(?P<several>s?)(?:[_-](?P<language>[a-z]{2,3}))?(?:[_-][0-9]+)?")
_NO_LANGUAGE = frozenset({"id", "len", "num", "raw", "src", "url"})
"""Short words that follow `caption_` and name something else than a language."""


class Caption(str):
    """A caption: text that knows the language it was called, or None. As a text it equals any other with its letters.

    Args:
        text: the caption.
        language: such as "ja", as the column was called.
    """

    __slots__ = ("language",)
    language: str | None

    def __new__(cls, text: str, language: str | None = None) -> Caption:
        made = super().__new__(cls, text)
        made.language = language
        return made

    def __getnewargs__(self) -> tuple[str, str | None]:  # type: ignore[override]
        return str(self), self.language


def language_of(text: str) -> str | None:
    """The language a caption was called, or None."""
    return getattr(text, "language", None)


def check_text(text: str, where: str) -> None:
    """Raise `ValueError` for a text that no picture has: with a NUL, half a character, or far too long."""
    if "\0" in text:
        raise ValueError(
            f"{where}: the caption holds a NUL character, so this is no text; make the file again as UTF-8"
        )
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{where}: the caption holds half a character (a lone surrogate); write it again as UTF-8")
    if len(text) > LONGEST:
        raise ValueError(
            f"{where}: a caption of {len(text):,} characters, more than {LONGEST:,}; is it a caption at all?"
        )


@dataclass
class Found:
    """Captions of one picture as they are gathered.

    Args:
        texts: those that say something.
        empty: how many did not.
    """

    texts: list[Caption] = field(default_factory=list)
    empty: int = 0

    def add(self, value: object, where: str, language: str | None = None) -> None:
        """Take in a caption, a list of them, or a table of language -> captions.

        Raises:
            ValueError: something else, a text that is none, or far too many.
        """
        if isinstance(value, Mapping):
            for key, inner in value.items():
                self.add(inner, where, str(key))
        elif isinstance(value, (list, tuple)):
            for inner in value:
                if isinstance(inner, (list, tuple, Mapping)):
                    raise ValueError(f"{where}: a caption is a text, found {str(inner)[:60]}")
                self.add(inner, where, language)
        elif value is None or value == "":
            # A table has a cell where there is no caption; that is not an empty one.
            pass
        elif isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError(f"{where} must be text or a list of texts, found {str(value)[:60]!r}")
        else:
            text = str(value)
            check_text(text, where)
            if not text.strip():
                self.empty += 1
            elif len(self.texts) == MOST:
                raise ValueError(f"{where}: more than {MOST} captions for one picture; is it something else?")
            else:
                self.texts.append(Caption(text, language))


def caption_columns(names: Iterable[str]) -> list[tuple[str, str | None]]:
    """(column, language) of the columns that hold captions, in their order: those called caption, else text.

    `caption`, `captions`, `caption_2`, `caption_ja`, `caption_ja_2`, and the same with text.
    """
    families: dict[str, list[tuple[str, str | None]]] = {family: [] for family in _FAMILIES}
    for name in names:
        fits = _COLUMN.fullmatch(name.strip().lower()) if isinstance(name, str) else None
        if fits and fits["language"] not in _NO_LANGUAGE:
            families[fits["family"]].append((name, fits["language"]))
    # The plain column comes first, so that it stays the caption of a picture whatever is written beside it.
    for family, found in families.items():
        found.sort(key=lambda column: column[0] != family)
    return next((found for found in families.values() if found), [])


def row_captions(values: Mapping[str, object], where: str) -> Found:
    """The captions of one row of a table.

    Raises:
        ValueError: a value that is no caption.
    """
    found = Found()
    for column, language in caption_columns(values):
        value = values[column]
        if isinstance(value, str) and column.lower().startswith(("captions", "texts")) and value.startswith("["):
            # A cell of a CSV file can hold a list only as text.
            try:
                listed = json.loads(value)
            except (ValueError, RecursionError):
                listed = value
            value = listed if isinstance(listed, list) else value
        found.add(value, f"{where}: {column!r}", language)
    return found


def file_captions(data: bytes, name: str) -> Found:
    """The captions in a text file beside a picture, one a line.

    Raises:
        ValueError: no UTF-8 text, too large, or a line that is no caption.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"{name} is larger than {MOST_BYTES // 2**20} MiB; is it something else than captions?")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{name} is UTF-16 text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    found = Found(empty=int(not text.strip()))
    # Only these ends of lines: `splitlines` would also cut at separators that may stand inside a caption.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if line.strip():
            found.add(line.strip(), f"{name} line {number}")
    return found


def sidecar_names(picture: str) -> tuple[str, ...]:
    """Names of the text file that may lie beside a picture: `a.txt` or `a.png.txt` beside `a.png`."""
    folder, slash, file = picture.rpartition("/")
    stem, dot, _ = file.rpartition(".")
    return (f"{folder}{slash}{stem}.txt" if dot else f"{picture}.txt", f"{picture}.txt")


def class_words(name: str) -> str:
    """The name of a class as it is spoken: `077_passion_flower` -> `passion flower`."""
    words = re.sub(r"[_\s]+", " ", name).strip()
    spoken = re.sub(r"^[0-9]+[\s._-]+(?=\S*[^\W\d_])", "", words)
    return spoken or words or name


def class_captions(name: str, templates: Sequence[str]) -> tuple[Caption, ...]:
    """Captions made from the name of a class.

    Raises:
        ValueError: no templates, or one without `{class}` or with another place.
    """
    if isinstance(templates, str):
        templates = (templates,)
    if not templates:
        raise ValueError("at least one template is needed, such as 'a picture of a {class}'")
    words = class_words(name)
    found = []
    for template in templates:
        places = re.findall(r"\{[^{}]*\}", template)
        if not places or set(places) != {"{class}"}:
            raise ValueError(
                f"the template {template!r} needs {{class}} where the name of the class goes, and no other place"
            )
        # "a {class}" before a vowel: English only, and as the words are written.
        if words[:1].lower() in "aeiou":
            template = re.sub(r"\b([Aa]) \{class\}", r"\1n {class}", template)
        language = next((lang for lang, known in TEMPLATES.items() if template in known), None)
        found.append(Caption(template.replace("{class}", words), language))
    return tuple(found)


def script_of(text: str) -> str:
    """What a text is written in, by its letters: Japanese where there is any kana, else the script of most letters."""
    counts: Counter[str] = Counter()
    for letter in text:
        if letter.isalpha():
            name = unicodedata.name(letter, "OTHER").split(" ")[0].split("-")[0]
            counts[name] += 1
    if counts["HIRAGANA"] or counts["KATAKANA"]:
        return "Japanese"
    if not counts:
        return "no letters"
    return {"CJK": "kanji only", "HANGUL": "Korean"}.get(most := counts.most_common(1)[0][0], most.capitalize())


@dataclass(frozen=True)
class CaptionFacts:
    """What is known of the captions of a set. Every field is plain data.

    Args:
        captions: how many there are.
        pictures: how many pictures have one.
        without: how many pictures have none.
        scripts: what they are written in -> how many.
        languages: the language of their column -> how many.
        longest: characters of the longest.
        longest_of: the picture it belongs to.
        repeated: captions that stand for another picture too.
        twice: captions that one picture has more than once.
        empty: captions that said nothing and were left out.
    """

    captions: int
    pictures: int
    without: int
    scripts: dict[str, int]
    languages: dict[str, int]
    longest: int
    longest_of: str
    repeated: int
    twice: int
    empty: int

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], names: Sequence[str], *, empty: int = 0) -> CaptionFacts:
        """Count the captions of every picture."""
        everything = [text for several in texts for text in several]
        shared = Counter(text for several in texts for text in set(several))
        languages = Counter(language for text in everything if (language := language_of(text)) is not None)
        length, where = max(
            ((len(text), name) for several, name in zip(texts, names, strict=True) for text in several),
            default=(0, ""),
            key=lambda found: found[0],
        )
        return cls(
            captions=len(everything),
            pictures=sum(bool(several) for several in texts),
            without=sum(not several for several in texts),
            scripts=dict(Counter(map(script_of, everything)).most_common()),
            languages=dict(languages.most_common()),
            longest=length,
            longest_of=where,
            repeated=sum(count for count in shared.values() if count > 1),
            twice=sum(len(several) - len(set(several)) for several in texts),
            empty=empty,
        )

    def lines(self) -> list[str]:
        """The facts for people."""
        if not self.captions:
            return ["none" + (f" ({self.empty} empty)" if self.empty else "")]
        few = f", {self.without} pictures without" if self.without else ""
        written = ", ".join(f"{name}: {count}" for name, count in self.scripts.items())
        lines = [
            f"{self.captions} for {self.pictures} pictures ({self.captions / self.pictures:.3g} each){few}",
            f"written in {written}; the longest has {self.longest} characters ({self.longest_of})",
        ]
        if self.languages:
            lines.append("columns for " + ", ".join(f"{name}: {count}" for name, count in self.languages.items()))
        said = (
            (self.repeated, "are those of another picture too"),
            (self.twice, "stand twice for one picture"),
            (self.empty, "are empty and left out"),
        )
        return [*lines, *(f"{count} {what}" for count, what in said if count)]
