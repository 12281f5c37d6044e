"""Texts by networks of others: CLIP's text tower (arXiv 2103.00020) and the encoders of T5 (1910.10683) and its kin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kakusan.encoders.base import TextEncoder, TextFeatures, TextReport, Word
from kakusan.encoders.pretrained.held import Held, check_precision, on, open_config, open_network
from kakusan.encoders.pretrained.place import CONFIG, Place, find, look, read_json
from kakusan.encoders.spans import Span, trimmed, words_of
from kakusan.extras import need
from kakusan.specs import from_spec, register, to_spec

EXTRA = "pretrained"


@dataclass(frozen=True)
class Pieces:
    """A text on its way to token numbers.

    Args:
        ids: token numbers of the row, marks included, padding not.
        offsets: the characters of each, (0, 0) for marks.
        tokens: how many the text became, marks not counted.
        cut: how many of them did not fit.
        unknown: pieces of the text without a token of their own.
    """

    ids: list[int]
    offsets: list[Span]
    tokens: int
    cut: int
    unknown: tuple[str, ...]


class Vocabulary:
    """The tokenizer in a folder.

    Args:
        place: of the encoder.
        fallback: the class of transformers that reads the tokenizer's files where there is no tokenizer.json.

    Raises:
        ValueError: damaged files, or a tokenizer that marks no end of a text.
    """

    def __init__(self, place: Place, fallback: str) -> None:
        library = _library()
        home = place.tokenizer
        assert home is not None
        name = "PreTrainedTokenizerFast" if (home / "tokenizer.json").is_file() else fallback
        try:
            read = getattr(library, name).from_pretrained(str(home), local_files_only=True)
            self._backend = read.backend_tokenizer
        except Exception as error:
            # The library below raises plain `Exception` for files that it cannot read.
            hint = (
                "" if (home / "tokenizer.json").is_file() else "; a folder with a tokenizer.json needs no more packages"
            )
            raise ValueError(f"the tokenizer in {home} cannot be read ({str(error)[:300]}){hint}") from None
        self._backend.no_truncation()
        self._backend.no_padding()
        # What looks like a mark inside a text is text: nobody ends a prompt by writing <|endoftext|>.
        self._backend.encode_special_tokens = True
        self.size = int(self._backend.get_vocab_size(with_added_tokens=True))
        self.marks = tuple(int(token) for token in self._backend.encode("").ids)
        if not self.marks or self.marks[-1] != read.eos_token_id or self.marks[-1] in self.marks[:-1]:
            raise ValueError(f"the tokenizer in {home} puts no end mark after a text, which {fallback} would do")
        self.end = self.marks[-1]
        # CLIP fills rows with the end mark. As what stands after the first one has no effect, ours are filled with what
        # is no end mark, so that the end of a row can be told from its padding by anyone.
        told = read.pad_token_id
        self.pad = int(told) if told is not None and told != self.end else int(self.end == 0)
        self._unknown = read.unk_token_id

    def pieces(self, text: str, length: int) -> Pieces:
        """A text as token numbers, at most `length` of them."""
        # Half a pair of UTF-16, which JSON can hold, is no character and has no bytes.
        text = text.encode("utf-8", "replace").decode("utf-8")
        found = self._backend.encode(text, add_special_tokens=False)
        every = [(token, trimmed(text, span)) for token, span in zip(found.ids, found.offsets, strict=True)]
        unknown = tuple(dict.fromkeys(text[slice(*span)] for token, span in every if token == self._unknown))
        # An unknown piece may get the number of the end mark (CLIP's tokenizer says so), and would end the text.
        inner = [(token, span) for token, span in every if token != self.end]
        kept = inner[: length - len(self.marks)]
        none = (0, 0)
        return Pieces(
            [*self.marks[:-1], *(token for token, _ in kept), self.end],
            [*(none for _ in self.marks[:-1]), *(span for _, span in kept), none],
            len(inner),
            len(inner) - len(kept),
            tuple(piece for piece in unknown if piece),
        )


class PretrainedText(TextEncoder):
    """A text encoder of others, frozen; base class.

    The network is no part of this module (see `Held`): a model that uses it stores the folder and the hash of its
    content. It is loaded when it is first asked for features, where the module stands then, and checked by its hash.

    Features of places that are padding are zero. They are computed in the precision that was asked for, also inside of
    autocast, and returned in float32, so that those of a cache are the same.

    Args:
        folder: where the network lies.
        content: hash of its files (`Place.content`).
        length: the most tokens of a text, marks included.
        width: features of a token.
        vector_width: features of a whole text.
        pad: number of the token that fills a row.
        marks: token numbers of the empty text, of which the last ends every text.
        layer: whose output the values are, counted from the end: -1 is the last layer, -2 the last but one. The final
            normalisation follows in any case, as in Stable Diffusion 2 (and other than in its XL, which leaves it out).
        precision: float32, bfloat16 or float16, of the network.
    """

    models: ClassVar[Mapping[str, tuple[str, str]]]
    """What `config.json` may call the network -> the classes of transformers for its configuration and for itself."""
    fallback: ClassVar[str]
    """The class of transformers for a tokenizer without tokenizer.json."""

    def __init__(
        self,
        *,
        folder: str,
        content: str,
        length: int,
        width: int,
        vector_width: int,
        pad: int,
        marks: Sequence[int],
        layer: int = -1,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        check_precision(precision)
        if layer > -1:
            raise ValueError(f"layers are counted from the end: -1 is the last, -2 the last but one; got {layer}")
        self.folder, self.content = folder, content
        self.length, self.width, self.vector_width = length, width, vector_width
        self.pad, self.marks = pad, tuple(marks)
        self.layer, self.precision = layer, precision
        # Follows `.to(device)`, holds nothing, and is not saved: it only says where the network is wanted.
        self.register_buffer("here", torch.empty(0), persistent=False)
        self.here: Tensor
        # Functions of plain values, not of this object, so that a copy can share what they make.
        kind = type(self)
        self.recall: Callable[[Tensor, Tensor], TextFeatures | None] | None = None
        """Features that are known already, of ids and their mask; None where some are not (`cached.remember`)."""
        self._place = place = Held(lambda: find(folder, content, tokenizer=True))
        self._vocabulary = Held(lambda: kind.vocabulary(place.get()))
        self._network: Held[nn.Module] = Held(lambda: kind.network(place.get(), precision))

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, length: int | None = None, layer: int = -1, precision: str = "float32"
    ) -> Self:
        """An encoder from a folder: looks at its configuration and its tokenizer, and takes its hash.

        Args:
            folder: with `config.json`, `*.safetensors` and the files of the tokenizer.
            length: the most tokens of a text; None takes what the network was made for (CLIP), or 128 (T5).
            layer: as in the class.
            precision: as in the class.

        Raises:
            ValueError: files are missing, damaged, pickles or of another network.
            ImportError: transformers is not installed.
        """
        place = look(folder, tokenizer=True)
        width, vector_width, layers, most = cls.sizes(place)
        vocabulary = cls.vocabulary(place)
        if layer < -layers:
            raise ValueError(f"{place.folder} has {layers} layers; there is no layer {layer}")
        length = min(most, 128) if length is None else length
        if not len(vocabulary.marks) < length <= most:
            raise ValueError(f"a text of {place.folder} has {len(vocabulary.marks) + 1} to {most} tokens, got {length}")
        return cls(
            folder=str(place.folder.resolve()),
            content=place.content(),
            length=length,
            width=width,
            vector_width=vector_width,
            pad=vocabulary.pad,
            marks=vocabulary.marks,
            layer=layer,
            precision=precision,
        )

    @classmethod
    def named(cls, place: Place) -> tuple[str, str]:
        """The classes of transformers for what lies there.

        Raises:
            ValueError: another network.
        """
        name = place.config.get("model_type")
        if not isinstance(name, str) or name not in cls.models:
            raise ValueError(f"{place.folder} holds a network of type {name!r}, expected {' or '.join(cls.models)}")
        return cls.models[name]

    @classmethod
    def vocabulary(cls, place: Place) -> Vocabulary:
        """The tokenizer that lies there.

        Raises:
            ValueError: damaged files, or a tokenizer of another network.
        """
        vocabulary = Vocabulary(place, cls.fallback)
        known = int(open_config(_library(), cls.named(place)[0], place).vocab_size)
        if vocabulary.size > known:
            raise ValueError(
                f"the tokenizer of {place.folder} has {vocabulary.size} tokens and the network knows {known}: they do "
                "not belong together"
            )
        return vocabulary

    @classmethod
    @abstractmethod
    def sizes(cls, place: Place) -> tuple[int, int, int, int]:
        """Features of a token, of a text, layers, and the most tokens."""

    @classmethod
    def network(cls, place: Place, precision: str) -> nn.Module:
        """The network itself, frozen."""
        return open_network(_library(), cls.named(place)[1], place, precision=precision)

    @abstractmethod
    def features(self, network: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """ids, mask (B, L) -> values (B, L, width), vector (B, vector_width)."""

    @property
    def loaded(self) -> bool:
        """Whether the network is in memory."""
        return self._network.loaded

    def moved(self, folder: str | Path) -> Self:
        """The same encoder, whose network lies elsewhere now; the hash is checked when it is loaded."""
        spec = {**to_spec(self), "folder": str(Path(folder).resolve())}
        return from_spec(spec, type(self)).to(self.here.device)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, length) int64, cut where they are too long.

        Raises:
            ValueError: the network's folder is not where it was, or was changed.
        """
        ids = torch.full((len(texts), self.length), self.pad, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            # The empty text is asked for by whoever only looks at a model, and needs no tokenizer.
            found = self.pieces(text).ids if text else self.marks
            row[: len(found)] = torch.tensor(found)
        return ids

    def pieces(self, text: str) -> Pieces:
        """A text on its way to token numbers."""
        return self._vocabulary.get().pieces(text, self.length)

    def report(self, text: str) -> TextReport:
        found = self.pieces(text)
        return TextReport(found.tokens, found.cut, found.unknown)

    def offsets(self, text: str) -> list[Span]:
        """The characters of each token of the row that `tokens` makes, marks included: (0, 0); padding is left out."""
        return self.pieces(text).offsets

    def words(self, text: str) -> list[Word]:
        return words_of(text, self.offsets(text))

    def forward(self, ids: Tensor) -> TextFeatures:
        """ids (B, L) int64, L at most `length` -> features on the device of this module, float32, without gradient.

        Raises:
            ValueError: ids of another shape, or the network's folder is not where it was, or was changed.
        """
        if ids.dim() != 2 or not 1 <= ids.shape[1] <= self.length:
            raise ValueError(f"token numbers are (B, 1 to {self.length}), got {tuple(ids.shape)}")
        device = self.here.device
        ids = ids.to(device)
        mask = real(ids, self.marks[-1])
        known = None if self.recall is None else self.recall(ids, mask)
        if known is not None:
            return known
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            values, vector = self.features(on(self._network, device), ids, mask)
        return TextFeatures(values.float().masked_fill(~mask[..., None], 0.0), mask, vector.float())


def real(ids: Tensor, end: int) -> Tensor:
    """(B, L) -> (B, L) bool: what stands before the first end mark, and that mark; everything where there is none."""
    ended = ids == end
    return ended.cumsum(1) - ended.long() == 0


def open_pretrained(
    folder: str | Path, *, length: int | None = None, layer: int = -1, precision: str = "float32"
) -> PretrainedText:
    """The text encoder in a folder, of whichever kind; as `PretrainedText.from_folder`.

    Raises:
        ValueError: a network of no kind that is known here, and what `from_folder` raises.
    """
    name = read_json(Path(folder) / CONFIG).get("model_type")
    kinds: tuple[type[PretrainedText], ...] = (PretrainedClipText, PretrainedT5)
    for kind in kinds:
        if name in kind.models:
            return kind.from_folder(folder, length=length, layer=layer, precision=precision)
    known = ", ".join(model for kind in kinds for model in kind.models)
    raise ValueError(f"{folder} holds a network of type {name!r}; text encoders are of the types {known}")


def _library() -> Any:
    return need("transformers", extra=EXTRA, what="a pretrained text encoder")


_PROJECTION = "text_projection.weight"


@register
class PretrainedClipText(PretrainedText):
    """The text tower of CLIP.

    The vector is what stands at the end mark of the last layer, projected into the space of CLIP's pictures where the
    folder has the projection (folders of whole CLIP models and of `CLIPTextModelWithProjection`), and not normalised.
    """

    models: ClassVar[Mapping[str, tuple[str, str]]] = {
        "clip": ("CLIPTextConfig", "CLIPTextModel"),
        "clip_text_model": ("CLIPTextConfig", "CLIPTextModel"),
    }
    fallback = "CLIPTokenizerFast"

    @classmethod
    def sizes(cls, place: Place) -> tuple[int, int, int, int]:
        config = open_config(_library(), cls.named(place)[0], place)
        width = int(config.hidden_size)
        projected = place.shape(_PROJECTION)
        vector_width = projected[0] if projected else width
        return width, vector_width, int(config.num_hidden_layers), int(config.max_position_embeddings)

    @classmethod
    def network(cls, place: Place, precision: str) -> nn.Module:
        name = cls.named(place)[1] + "WithProjection" * bool(place.shape(_PROJECTION))
        return open_network(_library(), name, place, precision=precision)

    def features(self, network: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # Every token sees those before it alone, so padding needs no mask.
        out = network(input_ids=ids, output_hidden_states=self.layer < -1)
        values = out.last_hidden_state
        ends = values[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        projection = getattr(network, "text_projection", None)
        if self.layer < -1:
            values = getattr(network, "text_model", network).final_layer_norm(out.hidden_states[self.layer])
        return values, ends if projection is None else projection(ends)


@register
class PretrainedT5(PretrainedText):
    """The encoder of T5, or of mT5 and UMT5, which read other languages than English too.

    T5 has no vector for a whole text: it is the mean of the last layer over the real tokens, the end mark among them.
    """

    models: ClassVar[Mapping[str, tuple[str, str]]] = {
        "t5": ("T5Config", "T5EncoderModel"),
        "mt5": ("MT5Config", "MT5EncoderModel"),
        "umt5": ("UMT5Config", "UMT5EncoderModel"),
    }
    fallback = "T5TokenizerFast"

    @classmethod
    def sizes(cls, place: Place) -> tuple[int, int, int, int]:
        config = open_config(_library(), cls.named(place)[0], place)
        # Positions are relative, so any number of tokens would do; but memory grows with its square.
        return int(config.d_model), int(config.d_model), int(config.num_layers), 4096

    def features(self, network: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out = network(input_ids=ids, attention_mask=mask.long(), output_hidden_states=self.layer < -1)
        last = out.last_hidden_state
        seen = mask[..., None].float()
        vector = (last.float() * seen).sum(1) / seen.sum(1)
        values = last if self.layer == -1 else network.encoder.final_layer_norm(out.hidden_states[self.layer])
        return values, vector
