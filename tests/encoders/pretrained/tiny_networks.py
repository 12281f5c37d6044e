"""Tiny CLIP and T5 with random weights and their tokenizers, made in code and saved as folders: no download."""

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ["a", "red", "blue", "flower", "with", "five", "round", "petals"]
LENGTH = 12


def clip_tokenizer(folder: Path, *, files: str = "tokenizer.json") -> int:
    """CLIP's kind of byte-level BPE, with a merge for each word; returns the number of tokens."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = alphabet + [letter + "</w>" for letter in alphabet]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            pair = (symbols[0], symbols[1])
            if pair not in merges:
                merges.append(pair)
            symbols = ["".join(pair), *symbols[2:]]
            if symbols[0] not in pieces:
                pieces.append(symbols[0])
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    made = CLIPTokenizerFast(vocab=vocabulary, merges=merges)
    made.save_pretrained(folder)
    if files != "tokenizer.json":
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return len(vocabulary)


def clip_config(vocabulary: int) -> dict[str, Any]:
    return dict(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
        projection_dim=8,
    )


def loud(network: torch.nn.Module) -> Any:
    """Weights large enough that every part of the network is heard."""
    with torch.no_grad():
        for number, value in enumerate(network.parameters()):
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
            value.copy_(noise / max(1, value.shape[-1]) ** 0.5 if value.dim() > 1 else value + 0.1 * noise)
    return network.eval()


def clip_text(folder: Path, *, projected: bool = True, files: str = "tokenizer.json") -> Any:
    """A text tower in a folder; returns the network of transformers."""
    import transformers

    config = transformers.CLIPTextConfig(**clip_config(clip_tokenizer(folder, files=files)))
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    network = loud(kind(config))
    network.save_pretrained(folder)
    return network


def whole_clip(folder: Path, *, preparation: dict[str, Any] | None = None, side: int = 16) -> Any:
    """Both towers in a folder, as the authors of CLIP gave it."""
    import transformers

    text = clip_config(clip_tokenizer(folder))
    vision = dict(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=8,
        projection_dim=8,
    )
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    network = loud(transformers.CLIPModel(config))
    network.save_pretrained(folder)
    if preparation is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return network


def t5(folder: Path, *, kind: str = "T5", whole: bool = False) -> Any:
    """An encoder of T5, mT5 or UMT5 in a folder with a unigram tokenizer; returns the network of transformers."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz,.!赤花"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [*((f"▁{word}", -2.0) for word in WORDS), *letters]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(pieces),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=3,
        num_heads=2,
        decoder_start_token_id=0,
        relative_attention_num_buckets=8,
    )
    name = f"{kind}ForConditionalGeneration" if whole else f"{kind}EncoderModel"
    network = loud(getattr(transformers, name)(config))
    network.save_pretrained(folder)
    return network
