"""`kakusan train-prior`: after a prior has been trained, how near its vectors come to those of held-out pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch

from kakusan.encoders.clip import BRIDGES
from kakusan.encoders.vector_data import VectorPictures
from kakusan.encoders.vectors import direction
from kakusan.files import write_text
from kakusan.metrics.vectors import Nearness, nearness, table
from kakusan.pipeline import load
from kakusan.prior import Prior, PriorSampling
from kakusan.train.clip import spaced
from kakusan.train.previews import write_report
from kakusan.train.run import TrainingRun
from kakusan.train.texts import texts_of

MEASURED = 256
CANDIDATES = 4
FIGURES = "prior.json"


def measure(prior: Prior, pictures: VectorPictures, *, seed: int = 0) -> dict[str, Nearness]:
    """Vectors of texts by every bridge and by the prior, against those of the texts' own pictures."""
    owned = texts_of(pictures)
    rows = [row for row in spaced(len(pictures), MEASURED).tolist() if owned[row]]
    # Of several captions one picture gives its first, the next its second, so that all languages count.
    texts = [owned[row][k % len(owned[row])] for k, row in enumerate(rows)]
    images = prior.data.directions(pictures.read(rows).to(prior.pipeline.device)).cpu()
    clip = prior.data.clip
    ways = {f"bridge {name}": clip.embed_texts(texts, bridge=name).cpu() for name in BRIDGES}
    how = PriorSampling(candidates=CANDIDATES)
    drawn = prior.draw(texts, [seed + k for k in range(len(texts))], how)
    ways["prior"] = drawn[0]
    ways["prior, nearer to the text of two"] = prior.choose(texts, drawn[:2])
    ways[f"prior, mean of {CANDIDATES}"] = direction(drawn.mean(0))
    return nearness(images, ways)


def conclude(run: TrainingRun) -> Iterator[str]:
    """Measure a finished run, and add the figures to its folder and its page; yields lines for people."""
    pictures, where = (run.held_out, "held-out") if len(run.held_out) > 1 else (run.training, "training")
    assert isinstance(pictures, VectorPictures)
    with torch.no_grad():
        found = measure(Prior(load(run.folder.path, device=run.device)), pictures, seed=run.config.run.seed)
    count = next(iter(found.values())).count
    yield f"vectors made from {count} {where} texts, against those of their pictures:"
    yield from (f"  {line}" for line in table(found))
    figures = {"measured_on": where, "ways": {name: row.record() for name, row in found.items()}}
    write_text(run.folder.path / FIGURES, json.dumps(figures, indent=1) + "\n")
    section = (f"From texts to vectors, {count} {where} texts", {name: row.said() for name, row in found.items()})
    write_report(run.folder, run.facts(), title=run.folder.path.resolve().name, extra=[section])
