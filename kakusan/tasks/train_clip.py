"""`kakusan train-clip`: CLIP from pictures with captions, its folder and its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from kakusan import runtime
from kakusan.config import DataSettings, to_toml
from kakusan.data.source import Pictures
from kakusan.encoders import folder as clip_folder
from kakusan.encoders.clip import Clip
from kakusan.encoders.image import parameters
from kakusan.metrics.clip import bare_name, measure_clip
from kakusan.model_folder import FACTS
from kakusan.report.clip import clip_page, retrieval_rows
from kakusan.report.embedding_map import EmbeddingMap
from kakusan.report.png import save_png
from kakusan.run_folder import RunFolder
from kakusan.train import clip as training
from kakusan.train import clip_checkpoint
from kakusan.train.captioned import Captioned, notes_on, some_embedded, spaced
from kakusan.train.clip_model import ClipSizes, kinds_of_texts
from kakusan.train.clip_settings import ClipConfig
from kakusan.train.keeping import forget
from kakusan.train.sources import open_parts

REPORT, MAP = "report.html", "map.png"
SHOWN = 300
"""Pictures on the map."""
_MEASURED = 2000


def train_clip(
    config: ClipConfig,
    *,
    out: Path,
    say: Callable[[str], None] = print,
) -> Path:
    """Train, measure and keep a CLIP; returns its folder, with `model.json`, `report.html` and `map.png`.

    Args:
        config: what to train, on which pictures with captions, and how.
        out: a new folder, or one where the same training was stopped; it keeps the configuration as `config.toml`.
        say: takes lines for people.

    Raises:
        ValueError: a place that is taken, or pictures without captions.
    """
    if (out / FACTS).is_file():
        raise ValueError(f"{out} is taken; name another folder with --out, nothing is overwritten")
    data, sizes = DataSettings(**vars(config.data)), ClipSizes(**vars(config.size))
    how, threads = training.ClipTraining(**config.run.plan()), config.run.threads
    where = runtime.pick_device(config.run.device)
    runtime.tune(threads=threads, device=where)
    pictures, held_out = open_parts(data, seed=how.seed, say=say)
    pairs = Captioned.of(pictures)
    apart = Captioned.of(held_out) if len(held_out) else None
    clip = sizes.build(pictures.spec, pairs.texts, seed=how.seed).to(where)
    length = f"{how.minutes:g} minutes" if how.steps is None else f"{how.steps} steps"
    say(f"{len(pairs)} pictures with {sum(map(len, pairs.texts))} captions, {parameters(clip):,} parameters, {length}")
    notes = notes_on(clip, pairs, len(pictures))
    for note in notes:
        say(f"note: {note}")
    run = training.ClipRun(clip, pairs, apart, how=how, precision=config.run.precision, say=say)
    if not clip_checkpoint.to_the_end(
        run, out, sizes, (pictures, held_out), config=to_toml(config), threads=threads, say=say
    ):
        return out
    trained = run.finished()
    measured, source = (pairs, pictures) if trained.measured_on == "training" or apart is None else (apart, held_out)
    figures = {}
    names = [bare_name(name) for name in pictures.spec.classes]
    for place, (name, which) in enumerate(kinds_of_texts(measured.texts).items()):
        rows = spaced(len(measured), _MEASURED)
        images, texts = some_embedded(clip, measured, rows, which)
        # Names of classes have one language, so they are asked once.
        labels = None if measured.labels is None or place else measured.labels[rows]
        figures[name] = measure_clip(clip, images, texts, labels=labels, names=names)
    for row in retrieval_rows(figures):
        say("  ".join(f"{key} {value}" for key, value in row.items()))
    for found in figures.values():
        if found.zero_shot is not None:
            say(f"class told by its name alone {found.zero_shot.rate}")
    record = {
        "how": asdict(how),
        "sizes": asdict(sizes),
        "source": data.source,
        "fingerprint": pictures.fingerprint,
        "pairs": len(pairs),
        **trained.record(),
        "figures": {name: found.record() for name, found in figures.items()},
    }
    identity = clip_folder.save(out, clip, pictures.spec, record)
    shown = _map(clip, measured, source)
    save_png(shown.picture(), out / MAP, {"kind": "map of a CLIP", "clip": identity, "pictures": len(shown.captions)})
    page = clip_page(
        title="CLIP",
        facts={
            "pictures": len(pairs),
            "captions": sum(map(len, pairs.texts)),
            "parameters": parameters(clip),
            "steps": trained.steps,
            "best step": trained.best,
            "minutes": round(trained.seconds / 60.0, 1),
            "loss": sizes.loss,
            "image tower": sizes.tower,
            "scale": round(float(clip.scale), 1),
        },
        history=trained.history,
        figures=figures,
        measured_on=trained.measured_on,
        shown=shown,
        notes=notes,
    )
    page.write(out / REPORT)
    forget(RunFolder(out))
    say(f"wrote {out} with {REPORT} and {MAP}; use it with: kakusan train --data {data.source} --text {out}")
    return out


def _map(clip: Clip, pairs: Captioned, source: Pictures) -> EmbeddingMap:
    rows = spaced(len(pairs), SHOWN)
    images, texts = some_embedded(clip, pairs, rows, 0)
    thumbnails = source.spec.to_pil(pairs.read(rows))
    classes = source.spec.classes
    groups = [] if pairs.labels is None or not classes else [classes[int(k)] for k in pairs.labels[rows]]
    return EmbeddingMap.of(images, clip.embed_texts(texts, bridge="shift"), thumbnails, texts, groups)
