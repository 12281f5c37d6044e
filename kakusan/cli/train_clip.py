"""`kakusan train-clip`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kakusan.cli.options import parse
from kakusan.config import DataSettings, MaybeInt


@dataclass(frozen=True)
class TrainClipOptions:
    """Train CLIP on pictures with captions: an image tower and a text tower that agree on what belongs together.

    Its text tower then reads prompts for a diffusion model, and its vectors of pictures can be conditions. Retrieval
    and zero-shot accuracy on held-out pictures, the gap between pictures and texts, and a map of the space stand in the
    folder's report.html.

    Args:
        out: a new folder.
        data: a folder or zip file of pictures with captions (metadata.csv or .jsonl, or text files beside them),
            shards, or an embedded set (flowers, flowers:words).
        size: side of the (square) pictures; found from the data when not given.
        fit: how other sizes are brought to it: crop, pad or stretch.
        flip: mirror pictures left to right at random; not where captions speak of left and right.
        held_out: share kept aside to measure on; embedded sets come with their own.
        num: number of pictures of an embedded set that is drawn by code.
        tower: of pictures: conv (residual convolutions) or vit (vision transformer).
        loss: softmax (CLIP) or sigmoid (SigLIP).
        width: of the image tower: the one dial for its size.
        depth: of the image tower.
        features: of a vector.
        text_width: features of a token.
        text_depth: blocks of the text tower.
        length: the most tokens of a text, marks for its beginning and end included.
        vocabulary: the most tokens of the tokenizer that is learned from the captions.
        minutes: how long to train.
        steps: of the optimizer, in place of minutes: the same steps give the same weights.
        batch: pairs in a step.
        rate: largest learning rate.
        augment: how far pictures are moved, turned and scaled in training, as a fraction.
        seed: of weights, order and augmentation.
        threads: of the CPU; chosen when not given.
        device: auto, cpu, cuda.
    """

    out: Path = Path("runs/clip")
    data: str = "flowers"
    size: MaybeInt = None
    fit: str = "crop"
    flip: bool = False
    held_out: float = 0.1
    num: MaybeInt = None
    tower: Literal["conv", "vit"] = "conv"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    width: int = 32
    depth: int = 1
    features: int = 128
    text_width: int = 128
    text_depth: int = 3
    length: int = 64
    vocabulary: int = 2048
    minutes: float = 5.0
    steps: MaybeInt = None
    batch: int = 128
    rate: float = 1e-3
    augment: float = 0.08
    seed: int = 0
    threads: MaybeInt = None
    device: str = "auto"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(TrainClipOptions, argv, verb="train-clip")
    from kakusan.tasks.train_clip import train_clip
    from kakusan.train.clip import ClipTraining
    from kakusan.train.clip_model import ClipSizes

    train_clip(
        DataSettings(
            source=options.data,
            size=options.size,
            fit=options.fit,
            flip=options.flip,
            held_out=options.held_out,
            num=options.num,
        ),
        ClipTraining(
            minutes=options.minutes,
            steps=options.steps,
            batch=options.batch,
            rate=options.rate,
            augment=options.augment,
            seed=options.seed,
        ),
        ClipSizes(
            tower=options.tower,
            loss=options.loss,
            width=options.width,
            depth=options.depth,
            features=options.features,
            text_width=options.text_width,
            text_depth=options.text_depth,
            length=options.length,
            vocabulary=options.vocabulary,
        ),
        out=options.out,
        threads=options.threads,
        device=options.device,
        say=print,
    )
    return 0
