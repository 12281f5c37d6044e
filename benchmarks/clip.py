"""CLIP trained here from nothing: embedded flowers in two languages, real flowers, emoji.

    python benchmarks/clip.py flowers --minutes 4
    python benchmarks/clip.py words --minutes 3.5 --agree 0
    python benchmarks/clip.py real --source DATA/flowers102 --minutes 8
    python benchmarks/clip.py emoji --source DATA/emoji --minutes 4

`real` wants the folder with `flowers102-64.zip` and `captions.jsonl.gz`: held out are the pictures whose captions are
known to be theirs (pairing `exact`), trained on are all others, whose captions are of some picture of their class.
`emoji` wants `noto-emoji-64.zip` and `captions.csv`; every tenth name is held out. `words` are the plain flowers whose
factors are known exactly, where each attribute is asked for apart: held-out pictures choose among the texts that name
all their attributes, one of them with every value it can have. Prints Markdown.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kakusan.data.flowers_combinations import ATTRIBUTES, factors_of, values_of
from kakusan.data.flowers_prompts import prompt
from kakusan.data.flowers_species import SPECIES
from kakusan.data.source import ArrayPictures, Pictures, open_data
from kakusan.data.spec import DataSpec
from kakusan.encoders import folder
from kakusan.encoders import image as towers
from kakusan.encoders.clip import Clip
from kakusan.encoders.image import REGIONS, parameters
from kakusan.metrics.attributes import Rate
from kakusan.metrics.clip import bare_name, measure_clip, zero_shot
from kakusan.report.clip import retrieval_rows
from kakusan.report.embedding_map import EmbeddingMap
from kakusan.runtime import pick_precision
from kakusan.train.clip import Captioned, ClipTraining, some_embedded, spaced, train_clip
from kakusan.train.clip_model import ClipSizes, kinds_of_texts


def flowers(source: Path, size: int) -> tuple[Pictures, Pictures]:
    """Embedded flowers, captions in English and Japanese."""
    return open_data("flowers", size=size, num=6000), open_data("flowers:held-out", size=size, num=750)


def words(source: Path, size: int) -> tuple[Pictures, Pictures]:
    """Plain flowers of known factors, without some pairs of colour and petal count."""
    return open_data("flowers:words", size=size, num=16000), open_data("flowers:words:held-out", size=size, num=1000)


def attributes_told(clip: Clip, part: str, *, size: int, num: int = 400) -> dict[str, Rate]:
    """Of each attribute, how often a picture is nearest to the English text with the right value."""
    pictures = open_data(f"flowers:words:{part}", size=size, num=num)
    images = clip.embed_images(pictures.spec.to_model(pictures.read(range(num))))
    shown = [values_of(factors_of(part, index)) for index in range(num)]
    found = {}
    for name, values in ATTRIBUTES.items():
        texts = clip.embed_texts([prompt({**one, name: value}) for one in shown for value in values])
        nearest = torch.einsum("nd,nkd->nk", images, texts.view(num, len(values), -1)).argmax(1)
        right = sum(values[int(k)] == one[name] for k, one in zip(nearest, shown, strict=True))
        found[name] = Rate(right, num)
    return found


def real(source: Path, size: int) -> tuple[Pictures, Pictures]:
    """Oxford flowers: (captions of the class, captions of the picture itself)."""
    lines = gzip.decompress((source / "captions.jsonl.gz").read_bytes()).decode("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    archive = zipfile.ZipFile(source / "flowers102-64.zip")
    members = {Path(name).name: name for name in archive.namelist() if name.endswith(".jpg")}
    parts: tuple[list[tuple[np.ndarray, int, list[str]]], ...] = ([], [])
    held = {
        hashlib.sha256(archive.read(members[Path(row["file"]).name])).digest()
        for row in rows
        if row["pairing"] == "exact"
    }
    classes = sorted({Path(name).parent.name for name in members.values()})
    for row in rows:
        name = members[Path(row["file"]).name]
        content = archive.read(name)
        exact = row["pairing"] == "exact"
        # Four pictures of the set come twice: no copy of a held-out one is trained on.
        if not exact and hashlib.sha256(content).digest() in held:
            continue
        texts = [row["exact_caption"]] if row["pairing"] == "one_exact" else list(row["captions"])
        parts[exact].append((_pixels(content, size), classes.index(Path(name).parent.name), texts))
    return _pictures(parts[0], classes), _pictures(parts[1], classes)


def emoji(source: Path, size: int) -> tuple[Pictures, Pictures]:
    """Named emoji on white, every tenth name held out."""
    archive = zipfile.ZipFile(source / "noto-emoji-64.zip")
    members = {Path(name).name: name for name in archive.namelist()}
    with open(source / "captions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    key = next(k for k in rows[0] if k.lower() in ("name", "english_name", "caption"))
    classes = sorted({row["group"] for row in rows})
    parts: tuple[list[tuple[np.ndarray, int, list[str]]], ...] = ([], [])
    for row in rows:
        apart = hashlib.sha256(row[key].encode()).digest()[0] % 10 == 0
        pixels = _pixels(archive.read(members[Path(row["file"]).name]), size)
        parts[apart].append((pixels, classes.index(row["group"]), [row[key]]))
    return _pictures(parts[0], classes), _pictures(parts[1], classes)


def _pixels(content: bytes, size: int) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    if image.mode != "RGB":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.moveaxis(np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)), -1, 0)


def _pictures(rows: list[tuple[np.ndarray, int, list[str]]], classes: list[str]) -> ArrayPictures:
    stored = np.stack([pixels for pixels, _, _ in rows])
    return ArrayPictures(
        DataSpec.measure(stored, classes=tuple(classes), mode="RGB"),
        stored,
        labels=[label for _, label, _ in rows],
        texts=[texts for _, _, texts in rows],
    )


SETS = {"flowers": flowers, "words": words, "real": real, "emoji": emoji}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--source", type=Path, default=Path())
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--tower", default="conv")
    parser.add_argument("--loss", default="softmax")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--agree", type=float, default=1.0)
    parser.add_argument("--regions", type=int, default=REGIONS, help="a side, of the tower conv")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keep the model and the map here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures, held_out = SETS[options.set](options.source, options.size)
    pairs, apart = Captioned.of(pictures), Captioned.of(held_out)
    towers.REGIONS = options.regions
    clip = ClipSizes(tower=options.tower, loss=options.loss).build(pictures.spec, pairs.texts, seed=0)
    how = ClipTraining(minutes=options.minutes, batch=options.batch, optimizer=options.optimizer, agree=options.agree)
    said = partial(print, file=sys.stderr, flush=True)
    trained = train_clip(clip, pairs, apart, how=how, precision=options.precision, say=said)
    precision = pick_precision(options.precision, torch.device("cpu")).name
    rows = spaced(len(apart), 2000)
    figures = {}
    for name, which in kinds_of_texts(apart.texts).items():
        images, texts = some_embedded(clip, apart, rows, which)
        figures[name] = measure_clip(clip, images, texts)
    print(f"### {options.set}\n")
    print(
        f"{len(pairs)} pairs trained on, {len(apart)} held out, {options.size} pixels a side, {options.tower}, "
        f"{options.loss}, {parameters(clip):,} parameters, {trained.steps} steps of {options.batch} in "
        f"{trained.seconds / 60:.1f} minutes on {options.threads} thread(s); best step {trained.best}; "
        f"{precision}, {options.optimizer}, texts agreeing with weight {options.agree:g}, "
        f"{options.regions} x {options.regions} regions.\n"
    )
    if options.set == "words":
        told = {part: attributes_told(clip, part, size=options.size) for part in ("seen", "unseen")}
        print("| pairs of colour and count | " + " | ".join(ATTRIBUTES) + " |\n|---|" + "---|" * len(ATTRIBUTES))
        for part, rates in told.items():
            print(f"| {part} | " + " | ".join(rate.text() for rate in rates.values()) + " |")
        print()
    table = retrieval_rows(figures)
    print("| " + " | ".join(table[0]) + " |\n|" + "---|" * len(table[0]))
    for row in table:
        print("| " + " | ".join(map(str, row.values())) + " |")
    print()
    named = {"class names": [bare_name(name) for name in pictures.spec.classes]} if options.set != "words" else {}
    if options.set == "flowers":
        named |= {"Japanese names": [SPECIES[name].japanese.name for name in pictures.spec.classes]}
        named["class names"] = [SPECIES[name].english.name for name in pictures.spec.classes]
    for name, called in named.items():
        assert apart.labels is not None
        templates = ["{class}"] if name == "Japanese names" else None
        shot = zero_shot(clip, images, apart.labels[rows], called, templates=templates)
        print(f"* zero-shot, {name}: {shot.rate}, templates {', '.join(shot.templates)}")
    for name, found in figures.items():
        for bridge, gap in found.gaps.items():
            print(
                f"* gap, {name}, {bridge}: means {gap.distance:.3f} apart, cosine own {gap.cosine:.3f}, "
                f"others {gap.others:.3f}"
            )
    if options.out is not None:
        options.out.mkdir(parents=True)
        folder.save(options.out, clip, pictures.spec, trained.record())
        some = spaced(len(apart), 300)
        images, texts = some_embedded(clip, apart, some, 0)
        thumbnails = pictures.spec.to_pil(apart.read(some))
        groups = [pictures.spec.classes[int(k)] for k in apart.labels[some]]
        shown = EmbeddingMap.of(images, clip.embed_texts(texts, bridge="shift"), thumbnails, texts, groups)
        shown.picture().save(options.out / "map.png")


if __name__ == "__main__":
    main()
