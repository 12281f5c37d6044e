"""Pictures from real captions: Oxford flowers and named emoji at 64 x 64, read by a CLIP that the model never saw.

    python benchmarks/captions.py flowers --source DATA/flowers102 --minutes 60 --write
    python benchmarks/captions.py emoji --source DATA/emoji --minutes 30 --write
    python benchmarks/captions.py flowers --source DATA/flowers102 --run RUN --write

Without `--run` a CLIP and then a model of texts that reads with it are trained first, on the pictures that
`benchmarks/clip.py` does not hold out: of the flowers those whose captions are known to be theirs are held out, of the
emoji every tenth name. One picture is drawn for each of `--num` held-out captions, and another CLIP trained here, on
the same training pictures but never shown to the model, says which of a hundred captions each picture was drawn for
(R-precision). Everything is kept in `--out`, which must not lie in the project: the data are not ours. On the page are
figures, and samples of our own prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import clip as clip_benchmark
import common
import torch
from captions_page import PROMPTS, Found, Reading, page
from PIL import Image
from torch import Tensor

from kakusan.config import DataSettings, TrainConfig, merge, read_toml
from kakusan.data.source import Pictures, subset
from kakusan.encoders import folder as clip_folder
from kakusan.encoders.clip import Clip
from kakusan.files import write_text
from kakusan.metrics.retrieval import Rate, recall
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.watching import Watcher, WatchPlan, scaled
from kakusan.nn.count import parameters
from kakusan.pipeline import Pipeline, load
from kakusan.report.prompts import prompt_sheet
from kakusan.runtime import pick_device
from kakusan.train.autoencoder import AutoencoderRun, AutoencoderTraining
from kakusan.train.clip import Captioned, ClipTraining, train_clip
from kakusan.train.clip_model import ClipSizes
from kakusan.train.metrics_log import read_records
from kakusan.train.run import TrainingRun
from kakusan.train.sources import open_parts

# In the benchmark of CLIP "flowers" are the embedded ones.
SETS = {"flowers": clip_benchmark.real, "emoji": clip_benchmark.emoji}
AMONG, KS = 100, (1, 5, 10)
SPACES = ("self-supervised", "random")


def candidates(texts: Sequence[str], *, among: int, seed: int) -> list[list[str]]:
    """For each text: itself first, then `among - 1` others drawn from all that differ from it.

    Raises:
        ValueError: fewer than two different texts.
    """
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < 2:
        raise ValueError("R-precision needs at least two different captions")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for text in texts:
        others = [t for t in distinct if t != text]
        drawn = torch.randperm(len(others), generator=generator)[: among - 1].tolist()
        found.append([text, *(others[i] for i in drawn)])
    return found


def r_precision(images: Tensor, drawn: Sequence[Sequence[int]], vectors: Tensor) -> dict[int, Rate]:
    """Share of pictures whose own caption is among the k nearest of their candidates.

    Args:
        images: (N, D) directions.
        drawn: rows of `vectors` for each picture, its own caption first.
        vectors: (M, D) directions of texts.
    """
    chosen = vectors[torch.tensor(drawn)]
    similarity = torch.einsum("nd,nkd->nk", images, chosen)
    right = torch.zeros_like(similarity, dtype=torch.bool)
    right[:, 0] = True
    return recall(similarity, right, KS)


def standing(images: Tensor, drawn: Sequence[Sequence[int]], vectors: Tensor) -> tuple[float, float]:
    """(mean share of the other candidates that are nearer to a picture than its own caption, its standard error).

    0 is perfect and a half is chance; ties count half. It says more than R-precision where a reader is weak.
    """
    similarity = torch.einsum("nd,nkd->nk", images, vectors[torch.tensor(drawn)]).double()
    own, others = similarity[:, :1], similarity[:, 1:]
    share = ((others > own).double() + 0.5 * (others == own).double()).mean(1)
    return float(share.mean()), float(share.std() / len(share) ** 0.5)


@dataclass
class Bench:
    """One run of the benchmark, and what its pieces share."""

    options: argparse.Namespace

    @property
    def place(self) -> Path:
        """Where everything is kept."""
        return Path(self.options.out) / str(self.options.set)

    @cached_property
    def pictures(self) -> tuple[Pictures, Pictures]:
        """(trained on, held out)."""
        return SETS[self.options.set](self.options.source, self.options.size)

    @cached_property
    def asked(self) -> tuple[list[int], list[str]]:
        """(held-out pictures, one caption of each), spread over the set; which caption is a matter of the place."""
        held_out = self.pictures[1]
        assert held_out.texts is not None
        count = min(self.options.num, len(held_out))
        rows = torch.linspace(0, len(held_out) - 1, count).round().long().tolist()
        return rows, [held_out.texts[row][i % len(held_out.texts[row])] for i, row in enumerate(rows)]

    @cached_property
    def watcher(self) -> Watcher:
        """Real pictures of training and feature spaces."""
        training = self.pictures[0]
        num = min(len(self.asked[0]), len(training) // 4)
        plan = WatchPlan(num=num, num_steps=1, spaces=tuple(self.options.spaces), distances=("frechet",))
        return Watcher(training, subset(training, []), plan, folder=self.place / "spaces", say=_indented)

    def known(self, name: str, make: Callable[[], Any]) -> Any:
        """What was found before in this folder, or is found now."""
        path = self.place / f"{name}.json"
        if not path.is_file():
            write_text(path, json.dumps(make(), indent=1) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))


def trained_clip(bench: Bench, name: str, *, seed: int, minutes: float, size: int) -> Path:
    """A CLIP trained on the training pictures alone, `size` pixels a side, and measured on a part of them."""
    options = bench.options
    path = bench.place / f"{name}-{size}-{options.tower}-{minutes:g}-minutes"
    if path.is_dir():
        return path
    training = bench.pictures[0] if size == options.size else SETS[options.set](options.source, size)[0]
    apart = list(range(seed, len(training), 20))
    rest = sorted(set(range(len(training))) - set(apart))
    pairs, others = Captioned.of(subset(training, rest)), Captioned.of(subset(training, apart))
    network = ClipSizes(tower=options.tower).build(training.spec, pairs.texts, seed=seed)
    how = ClipTraining(minutes=minutes, batch=min(128, len(pairs)), agree=1.0, seed=seed)
    trained = train_clip(network.to(pick_device(options.device)), pairs, others, how=how, say=_indented)
    path.mkdir(parents=True)
    clip_folder.save(path, trained.clip, training.spec, trained.record())
    return path


def words(bench: Bench) -> Path:
    """The CLIP that reads texts for the model. Only its reading is used, which smaller pictures teach in less time."""
    size = max(16, bench.options.size // 2)
    return trained_clip(bench, "words", seed=2, minutes=bench.options.clip_minutes, size=size)


def reader(bench: Bench) -> Clip:
    """The CLIP that judges; the model never sees it."""
    minutes, size = bench.options.reader_minutes, bench.options.size
    path = trained_clip(bench, "reader", seed=1, minutes=minutes, size=size)
    return clip_folder.load(path).clip.to(pick_device(bench.options.device))


def write_training(bench: Bench) -> Path:
    """The training pictures with their captions as a folder that `kakusan train` reads."""
    place = bench.place / f"training-{bench.options.size}"
    if (place / "metadata.jsonl").is_file():
        return place
    training = bench.pictures[0]
    assert training.texts is not None
    place.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, image in enumerate(training.spec.to_pil(training.spec.to_model(training.read(range(len(training)))))):
        image.save(place / f"{i:05d}.png", compress_level=1)
        rows.append(json.dumps({"file_name": f"{i:05d}.png", "captions": list(training.texts[i])}))
    # Last, so that a folder with it is whole.
    write_text(place / "metadata.jsonl", "\n".join(rows) + "\n")
    return place


def autoencoder(bench: Bench) -> Path | None:
    """Of the latents that the model draws; None for a model of pixels."""
    minutes = bench.options.autoencoder_minutes
    if minutes == 0:
        return None
    path = bench.place / f"autoencoder-{bench.options.size}-{minutes:g}-minutes"

    def train() -> dict[str, float]:
        training, held_out = open_parts(data_of(bench), seed=0)
        how = AutoencoderTraining(factor=4, minutes=minutes, measurements=1)
        run = AutoencoderRun(how, training, held_out, path, threads=bench.options.threads, say=_indented)
        health = run.run()
        if run.stop is not None:
            raise SystemExit(f"stopped by {run.stop}; the same command goes on")
        return {"steps": float(run.trainer.step), "psnr": health.psnr}

    # One that is opened again is stored again, under another hash, and would leave its model without its data.
    bench.known(path.name, train)
    return path


def data_of(bench: Bench, autoencoder: Path | None = None) -> DataSettings:
    """The training pictures, as pixels or as latents."""
    given = bench.options
    return DataSettings(
        source=str(write_training(bench)),
        size=given.size,
        held_out=0.03,
        flip=given.set == "flowers",
        autoencoder=None if autoencoder is None else str(autoencoder),
    )


def settings(bench: Bench) -> TrainConfig:
    """Of the model of texts that is trained when none is given."""
    options, coder = bench.options, autoencoder(bench)
    model = {"multipliers": [1, 2, 2], "depth": 1, "patch": 1 if coder else 2, "attention_levels": []}
    given: dict[str, Any] = {
        "model": {**model, "width": options.width},
        "text": {"encoder": str(words(bench))},
        "objective": {"times": "logit-normal"},
        "optim": {"optimizer": "muon", "rate": 1e-2, "warmup": 80, "decay": 0.5},
        "run": {"minutes": options.minutes, "batch": 32, "threads": options.threads, "device": options.device,
                "previews": 1, "measurements": 6, "checkpoints": 4, "spaced": 1, "snapshots": 0, "watch": 0},
    }  # fmt: skip
    config = replace(merge(TrainConfig(), given), data=data_of(bench, coder))
    return config if options.config is None else merge(config, read_toml(options.config), str(options.config))


def model_of(bench: Bench) -> Path:
    """The run to draw from: the one that is given, or one that is trained here."""
    if bench.options.run is not None:
        return Path(bench.options.run)
    out = bench.place / f"model-{bench.options.minutes:g}-minutes-{bench.options.width}"
    run = TrainingRun(settings(bench), out, say=_indented)
    if run.trainer.step == 0:
        _indented(run.estimate().text(run.config.run.batch))
    if run.trainer.step < run.trainer.steps:
        run.run()
    if run.stop is not None:
        raise SystemExit(f"stopped by {run.stop}; the same command goes on")
    return out


def trained_on(bench: Bench, run: Path) -> tuple[str, bool]:
    """(what a run was trained on and for how long, whether that is known to leave the held-out pictures out)."""
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    rows = [r for r in read_records(run / "metrics.jsonl") if r["kind"] == "step"]
    minutes = sum(r["seconds"] + r.get("wait", 0.0) for r in rows) / 60.0
    source = Path(str(config.get("data", {}).get("source", "?")))
    sure = source.resolve() == (bench.place / f"training-{bench.options.size}").resolve()
    count = max((r["samples"] for r in rows), default=0)
    told = ""
    if not bench.options.run:
        told = f", after {bench.options.clip_minutes:g} minutes of the CLIP that reads for it"
        coder = bench.options.autoencoder_minutes
        told += f" and {coder:g} of the autoencoder (factor 4) of its latents" if coder else ""
    return f"{minutes:.1f} minutes, {len(rows)} steps, {count:,} pictures seen with repetitions{told}", sure


def draw(bench: Bench, pipeline: Pipeline, texts: Sequence[str], *, guidance: float, seed: int = 0) -> PictureSet:
    """One picture of each text, as it would be stored; picture k has the seed `seed` + k."""
    options = bench.options
    x0 = pipeline.sample_tensor(
        prompts=list(texts), seed=seed, guidance_scale=guidance, num_steps=options.steps, batch=options.batch
    )
    return PictureSet.sampled(x0, pipeline.data)


def read(bench: Bench, network: Clip, name: str, made: PictureSet) -> Reading:
    """What the reader says of pictures drawn for the held-out captions, and how near they are to real ones."""
    rows, texts = bench.asked
    held_out = bench.pictures[1]
    distinct = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(distinct)}
    drawn = [[place[t] for t in several] for several in candidates(texts, among=AMONG, seed=0)]
    vectors = torch.cat([network.embed_texts(distinct[i : i + 64]).cpu() for i in range(0, len(distinct), 64)])
    images = torch.cat([network.embed_images(part).cpu() for part in made.x().split(64)])
    rates = r_precision(images, drawn, vectors)
    # Of the other captions in the hundred, most are of other classes: how often is the nearest of the right one?
    assert held_out.labels is not None
    labels = held_out.labels[torch.tensor(rows)]
    group = torch.tensor([int(labels[texts.index(text)]) for text in distinct])
    chosen = vectors[torch.tensor(drawn)]
    nearest = torch.einsum("nd,nkd->nk", images, chosen).argmax(1)
    told = group[torch.tensor(drawn).gather(1, nearest[:, None])[:, 0]]
    few = made.take(range(bench.watcher.num))
    ratios = {r.space: list(scaled(r)[:2]) for r in bench.watcher.measure(few, step=0, model=few.hash).records}
    same = float((told == labels).float().mean())
    told_by = {str(k): asdict(rate) for k, rate in rates.items()}
    return Reading(name, told_by, list(standing(images, drawn, vectors)), same, ratios, len(texts))


def run(options: argparse.Namespace) -> tuple[Found, Image.Image]:
    """Train what is missing, draw, read, and show our own prompts."""
    bench = Bench(options)
    bench.place.mkdir(parents=True, exist_ok=True)
    held_out = bench.pictures[1]
    folder = model_of(bench)
    pipeline = load(folder, device=pick_device(options.device))
    if not pipeline.reads_texts:
        raise SystemExit(f"{folder} is not a model of texts")
    network = reader(bench)
    rows, texts = bench.asked
    real = PictureSet.read(held_out, rows)
    readings = [read(bench, network, "held-out pictures with their own captions", real)]
    print("drawing", flush=True)
    for guidance in dict.fromkeys((1.0, options.guidance)):
        made = draw(bench, pipeline, texts, guidance=guidance)
        readings.append(read(bench, network, f"samples, guidance {guidance:g}", made))
    # The same pictures beside captions of others: what chance, and a model that does not listen, would get.
    moved = made.take([(i + len(texts) // 2) % len(texts) for i in range(len(texts))])
    readings.append(read(bench, network, "the last, each given to another caption", moved))
    story, sure = trained_on(bench, folder)
    size = sum(p.numel() for p in network.parameters())
    found = Found(
        set=options.set,
        size=options.size,
        pictures=len(bench.pictures[0]),
        held_out=len(held_out),
        among=min(AMONG, len(set(texts))),
        spaces=list(options.spaces),
        readings=readings,
        training=story,
        sure=sure,
        parameters=parameters(pipeline.model),
        steps=options.steps,
        guidance=options.guidance,
        reader=f"{options.tower}, {options.reader_minutes:g} minutes, {size:,} parameters",
        command=f"python benchmarks/captions.py {options.set} --source DATA"
        + (f" --run {options.run}" if options.run else _lengths(options))
        + (f" --size {options.size}" if options.size != 64 else "")
        + f" --reader-minutes {options.reader_minutes:g} --num {options.num} --guidance {options.guidance:g} --write",
        machine=common.machine(torch.get_num_threads()),
    )
    blocks = []
    for i, prompt in enumerate(PROMPTS[options.set]):
        some = draw(bench, pipeline, [prompt] * options.columns, guidance=options.guidance, seed=1000 * (i + 1))
        blocks.append((prompt, pipeline.data.pictured.to_pil(some.x())))
    return found, prompt_sheet(blocks, columns=options.columns)


def _lengths(options: argparse.Namespace) -> str:
    """Of the model and what it reads with, as options, where none was given."""
    more = f" --config {options.config}" if options.config else ""
    parts = f" --clip-minutes {options.clip_minutes:g} --autoencoder-minutes {options.autoencoder_minutes:g}"
    threads = "" if options.threads is None else f" --threads {options.threads}"
    return f" --minutes {options.minutes:g}{parts} --width {options.width}{threads}{more}"


def _indented(line: str) -> None:
    print("  " + line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and write the page; the exit status says whether captions are followed beyond chance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--source", type=Path, required=True, help="folder of the data, as benchmarks/clip.py wants it")
    parser.add_argument("--run", type=Path, help="a model of texts; else one is trained")
    parser.add_argument("--minutes", type=float, default=60.0, help="of its training")
    parser.add_argument("--config", type=Path, help="TOML of settings for its training, over those of this file")
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--clip-minutes", type=float, default=10.0, help="of the CLIP that reads texts for the model")
    parser.add_argument("--autoencoder-minutes", type=float, default=8.0, help="of that of its latents; 0: of pixels")
    parser.add_argument("--reader-minutes", type=float, default=10.0, help="of the CLIP that judges")
    parser.add_argument("--tower", default="conv")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--num", type=int, default=600, help="held-out captions, one picture each")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--columns", type=int, default=8, help="samples of each of our own prompts")
    parser.add_argument("--spaces", nargs="*", default=SPACES)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("/tmp/kakusan-captions"), help="where everything is kept")
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(argv)
    if options.out.resolve().is_relative_to(common.ROOT):
        parser.error(f"--out {options.out} lies in the project, and the data are not ours: choose another place")
    found, sheet = run(options)
    write_text(options.out / f"found-{found.set}.json", json.dumps(asdict(found), indent=1) + "\n")
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.out.glob("found-*.json"))]
    if options.write:
        options.results.mkdir(parents=True, exist_ok=True)
        sheet.save(options.results / f"captions-{found.set}.png")
    text = page([Found.of(plain) for plain in sorted(kept, key=lambda plain: plain["set"] != "flowers")])
    common.finish(text, options.results / "captions.md" if options.write else None)
    print("captions are followed" if found.followed else "captions are not followed beyond chance", file=sys.stderr)
    return 0 if found.followed else 1


if __name__ == "__main__":
    sys.exit(main())
