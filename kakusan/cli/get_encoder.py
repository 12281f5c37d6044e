"""`kakusan get-encoder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse


@dataclass(frozen=True)
class GetEncoderOptions:
    """Fetch a pretrained CLIP or T5 from huggingface.co into a folder, to read texts for a model.

    Nothing else in kakusan fetches an encoder: a model that needs one says which and stops. Only safetensors files,
    configurations and tokenizers are fetched, and each is checked by its hash.

    Args:
        repository: such as openai/clip-vit-base-patch32 or google/flan-t5-base.
        out: folder to make; encoders/NAME when not given.
        revision: a commit, a branch or a tag.
    """

    repository: Annotated[str, tyro.conf.Positional]
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    revision: str = "main"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(GetEncoderOptions, argv, verb="get-encoder")
    from kakusan.encoders.pretrained.fetch import fetch

    fetch(
        options.repository,
        options.out or Path("encoders") / options.repository.rpartition("/")[2],
        revision=options.revision,
    )
    return 0
