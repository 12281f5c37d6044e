"""Words to pictures: does a model of texts draw what a prompt says, pairs of words included that training never showed?

    python benchmarks/text.py RUN [--num 140] [--guidance 2] [--steps N] [--also CLIP_RUN] [--cache FOLDER] [--write]

RUN, a run or the folder of a design, is trained on `flowers:words`: flowers whose colour, petals, centre, leaves and
background are free of each other, without some pairs of colour and petal count. Prompts of seen and of unseen pairs, in
English and Japanese and in every wording, are sampled and read by a network that was trained on drawings with exact
factors. Then words are left out and changed: that attribute must follow and no other. `--write` puts the page into
docs/results/text.md and a sheet of the first prompts beside it; the exit status says whether the bars are met.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, finish, machine, table
from PIL import Image, ImageDraw
from torch import Tensor

from kakusan.data.flowers_combinations import ATTRIBUTES, SEEN, UNSEEN, sample_plain
from kakusan.data.flowers_prompts import STYLES, Wanted, evaluation_prompts
from kakusan.metrics.attributes import SEED, SIZE, AttributeReader, Rate, Reading, Scores, drawn, load_reader
from kakusan.recipes.designs import read_drawing
from kakusan.report import style
from kakusan.report.pictures import enlarge

BAR_SEEN, BAR_UNSEEN, BAR_MINUTES = 0.95, 0.85, 60.0
LANGUAGES = {"en": "English", "ja": "Japanese"}
NAMES = {name: name.replace("_", " ").replace("hue", "colour") for name in ATTRIBUTES}
PROMPT_SEED = 20

Sample = Callable[[Sequence[Wanted], int], list[Image.Image]]
"""(what is wanted, seed of the first) -> pictures; picture k has seed + k."""


@dataclass(frozen=True)
class Group:
    """Prompts of one kind, their pictures, and what was read from them."""

    name: str
    wanted: Sequence[Wanted]
    pictures: Sequence[Image.Image]
    reading: Reading

    @property
    def scores(self) -> Scores:
        """Beside what was wanted."""
        return self.reading.scores([w.values for w in self.wanted])

    def part(
        self, *, language: str | None = None, way: int | None = None, pair: tuple[str, int] | None = None
    ) -> Group:
        """The prompts of one language, one wording or one pair of colour and count."""
        chosen = [
            i
            for i, w in enumerate(self.wanted)
            if language in (None, w.language)
            and way in (None, w.style)
            and pair in (None, (w.values["petal_hue"], w.values["petal_count"]))
        ]
        reading = Reading(
            {name: tuple(values[i] for i in chosen) for name, values in self.reading.values.items()},
            {name: values[torch.tensor(chosen, dtype=torch.int64)] for name, values in self.reading.confidence.items()},
        )
        return replace(self, wanted=[self.wanted[i] for i in chosen], pictures=[], reading=reading)


@dataclass(frozen=True)
class WordEffect:
    """What became of pictures when one word was left out or changed, their seeds being the same.

    Args:
        attribute: which word.
        before: the attribute as first wanted, with the whole prompt.
        still: the first value after the word was left out.
        followed: the new value after the word was changed.
        others_before: all other attributes right, with the whole prompt.
        others_without: the same without the word.
        others_changed: the same with the other word.
    """

    attribute: str
    before: Rate
    still: Rate
    followed: Rate
    others_before: Rate
    others_without: Rate
    others_changed: Rate

    @property
    def kept(self) -> bool:
        """Whether the word alone was at work: it is followed, and the rest does not suffer, beyond two errors."""
        if not self.before.value - self.still.value > 2.0 * _error(self.before, self.still):
            return False
        if self.before.value - self.followed.value > 2.0 * _error(self.before, self.followed):
            return False
        return all(
            self.others_before.value - after.value <= 2.0 * _error(self.others_before, after)
            for after in (self.others_without, self.others_changed)
        )


def _error(one: Rate, two: Rate) -> float:
    return math.hypot(one.stderr, two.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Sample, read, write the page, and say whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, default=140, help="prompts of each language, seen and unseen alike")
    parser.add_argument("--words", type=int, default=28, help="prompts of each language whose words are changed")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=70)
    parser.add_argument("--device")
    parser.add_argument("--weights")
    parser.add_argument("--also", type=Path, action="append", default=[], help="another run that was trained for it")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/kakusan-attributes"), help="where the reader is kept")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(argv)
    from kakusan.designed import Designed

    chosen = {k: v for k, v in (("device", options.device), ("weights", options.weights)) if v is not None}
    models = Designed.open(options.run, **chosen)
    more = {} if options.steps is None else {"num_steps": options.steps}

    def sample(wanted: Sequence[Wanted], seed: int) -> list[Image.Image]:
        texts = [w.text for w in wanted]
        return models.sample(prompts=texts, seed=seed, guidance_scale=options.guidance, **more)

    reader = load_reader(options.cache)
    training = [trained(run) for run in (*parts(options.run), *options.also)]
    began = time.perf_counter()
    groups = ask(sample, reader, num=options.num, batch=options.batch, seed=options.seed)
    effects = change_words(sample, reader, num=options.words, batch=options.batch, seed=options.seed)
    seconds = time.perf_counter() - began
    command = f"python benchmarks/text.py {options.run} " + "".join(f"--also {run} " for run in options.also)
    command += f"--num {options.num} --words {options.words} "
    command += f"--guidance {options.guidance:g}" + (f" --steps {options.steps}" if options.steps else "")
    made = sum(len(g.wanted) for g in groups) + options.words * len(LANGUAGES) * (2 * len(ATTRIBUTES) + 1)
    text = page(groups, effects, reader, training, command, pictures=made, seconds=seconds)
    if options.write:
        sheet(groups).save(RESULTS / "text.png")
    finish(text, RESULTS / "text.md" if options.write else None)
    missed = [line for line, met in verdicts(groups, effects, training) if not met]
    print("\n".join(f"missed: {line}" for line in missed) or "all bars are met", file=sys.stderr)
    return 1 if missed else 0


def ask(sample: Sample, reader: AttributeReader, *, num: int, batch: int, seed: int) -> list[Group]:
    """Prompts of seen and of unseen pairs, in every language and wording, sampled and read."""
    found: list[Group] = []
    for name, pairs in (("seen", SEEN), ("unseen", UNSEEN)):
        # Other seeds for each group, so that no start is used twice.
        wanted = evaluation_prompts(pairs, num, seen=name == "seen", languages=list(LANGUAGES), seed=PROMPT_SEED)
        found.append(sampled(sample, reader, wanted, name, batch=batch, seed=seed + 10_000 * len(found)))
    return found


def sampled(
    sample: Sample, reader: AttributeReader, wanted: Sequence[Wanted], name: str, *, batch: int, seed: int
) -> Group:
    """Pictures of some prompts, and what is read from them."""
    pictures: list[Image.Image] = []
    for start in range(0, len(wanted), batch):
        pictures += sample(wanted[start : start + batch], seed + start)
    return Group(name, wanted, pictures, reader.read(stacked(pictures)))


def stacked(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1]."""
    arrays = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(arrays.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def change_words(sample: Sample, reader: AttributeReader, *, num: int, batch: int, seed: int) -> list[WordEffect]:
    """Each attribute left out of prompts and changed in them, one at a time, with the same seeds."""
    if num < 1:
        return []
    wanted = evaluation_prompts(SEEN, num, seen=True, languages=list(LANGUAGES), seed=PROMPT_SEED + 1)
    # Prompts that name something else have other colours, counts and so on, so every value is changed in some.
    first = sampled(sample, reader, wanted, "whole", batch=batch, seed=seed + 50_000)
    found = []
    for name, values in ATTRIBUTES.items():
        others = [{k: v for k, v in w.values.items() if k != name} for w in wanted]
        new = [_another(w, name, values) for w in wanted]
        without = sampled(sample, reader, [w.dropping(name) for w in wanted], name, batch=batch, seed=seed + 50_000)
        changed = sampled(sample, reader, new, name, batch=batch, seed=seed + 50_000)
        own = [{name: w.values[name]} for w in wanted]
        found.append(
            WordEffect(
                name,
                before=first.reading.scores(own).attributes[name],
                still=without.reading.scores(own).attributes[name],
                followed=changed.reading.scores([{name: w.values[name]} for w in new]).attributes[name],
                others_before=first.reading.scores(others).all_right,
                others_without=without.reading.scores(others).all_right,
                others_changed=changed.reading.scores(others).all_right,
            )
        )
    return found


def _another(wanted: Wanted, name: str, values: Sequence[int | str]) -> Wanted:
    """The prompt with the next value, skipping a pair that training lacks and a centre of the petals' colour."""
    place = values.index(wanted.values[name])
    for step in range(1, len(values)):
        new = {**wanted.values, name: values[(place + step) % len(values)]}
        if (new["petal_hue"], new["petal_count"]) not in UNSEEN and new["petal_hue"] != new["centre_hue"]:
            return wanted.changing(name, new[name])
    raise ValueError(f"no other {name} fits {wanted.text!r}")


def parts(run: Path) -> list[Path]:
    """The run itself, or all that draw in the folder of a design, the first of them first."""
    drawing = read_drawing(run)
    if drawing is None:
        return [run]
    found = [run / drawing.base, *(run / name for name in drawing.upscalers)]
    found += [run / name for name in (drawing.prior, "clip") if name is not None and (run / name).is_dir()]
    return found


@dataclass(frozen=True)
class Trained:
    """How long a run was trained, from its own records.

    Args:
        name: of the run.
        minutes: in steps and waiting for data; without what was measured on the way.
        samples: pictures seen, with repetitions.
        threads: of the processor; None on an accelerator.
        device: where.
        data: what on.
    """

    name: str
    minutes: float
    samples: int
    threads: int | None
    device: str
    data: str

    def text(self) -> str:
        """For the page."""
        unknown = "threads not recorded" if self.device == "cpu" else self.device
        where = f"{self.threads} threads" if self.threads else unknown
        return f"{self.name}: {self.minutes:.1f} minutes ({self.samples:,} pictures seen, {where}, on {self.data})"


def trained(run: Path) -> Trained:
    """Read `metrics.jsonl`, `env.json` and `config.toml` of a run or of an autoencoder, or the facts of a CLIP.

    Raises:
        ValueError: not a run folder, so nothing is known of its training.
    """
    if (run / "report.html").is_file() and (run / "model.json").is_file() and not (run / "metrics.jsonl").is_file():
        return trained_clip(run)
    metrics, environment = run / "metrics.jsonl", run / "env.json"
    autoencoder = (run / "settings.json").is_file()
    if not metrics.is_file() or not (environment.is_file() or autoencoder):
        raise ValueError(f"{run} is no run folder: it has no metrics.jsonl and env.json to tell its training time")
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines() if line.strip()]
    # A run that was killed and resumed has some steps twice; the time was spent twice, too.
    steps = [row for row in rows if row.get("kind") == "step"]
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8")) if (run / "config.toml").is_file() else {}
    if autoencoder:
        device, threads = "cpu", config.get("run", {}).get("threads")
    else:
        facts = json.loads(environment.read_text(encoding="utf-8"))
        device = str(facts.get("device", "?"))
        threads = facts.get("runtime", {}).get("threads") if device == "cpu" else None
    return Trained(
        run.name,
        sum(float(row["seconds"]) + float(row.get("wait", 0.0)) for row in steps) / 60.0,
        max((int(row.get("samples", 0)) for row in steps), default=0),
        threads,
        device,
        str(config.get("data", {}).get("source", "?")),
    )


def trained_clip(run: Path) -> Trained:
    """The same of a folder of `kakusan train-clip`, which keeps its facts in its model's description."""
    facts = json.loads((run / "model.json").read_text(encoding="utf-8"))["training"]
    config = run / "config.toml"
    settings = tomllib.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    # Not of this process, which may be told another number: only what the folder itself says counts.
    threads = next((part["threads"] for part in settings.values() if "threads" in part), None)
    batch = min(int(facts["how"]["batch"]), int(facts["pairs"]))
    return Trained(run.name, facts["seconds"] / 60.0, int(facts["steps"]) * batch, threads, "cpu", str(facts["source"]))


def verdicts(
    groups: Sequence[Group], effects: Sequence[WordEffect], training: Sequence[Trained]
) -> list[tuple[str, bool]]:
    """Each bar in words, and whether it is met."""
    lines = []
    for group, bar in zip(groups, (BAR_SEEN, BAR_UNSEEN), strict=True):
        for code, language in LANGUAGES.items():
            rates = group.part(language=code).scores.attributes
            name, worst = min(rates.items(), key=lambda item: item[1].value)
            line = f"{group.name} pairs, {language}: every attribute right at least {bar:.0%}; the least is "
            lines.append((f"{line}{NAMES[name]}, {worst.text()}", worst.value >= bar))
    minutes = sum(t.minutes for t in training)
    lines.append((f"training within {BAR_MINUTES:g} minutes on 2 cores; {minutes:.1f} minutes", minutes <= BAR_MINUTES))
    lines[-1] = (lines[-1][0], lines[-1][1] and all(t.threads is not None and t.threads <= 2 for t in training))
    if effects:
        wrong = [NAMES[e.attribute] for e in effects if not e.kept]
        line = "a word left out or changed changes its attribute and no other, within two standard errors"
        lines.append((line + (f"; not so: {', '.join(wrong)}" if wrong else ""), not wrong))
    lines.append(
        (f"trained on flowers:words, so that unseen means unseen; it was {training[0].data}",
         training[0].data in ("flowers:words", "flowers:words:train")),
    )  # fmt: skip
    return lines


def page(
    groups: Sequence[Group],
    effects: Sequence[WordEffect],
    reader: AttributeReader,
    training: Sequence[Trained],
    command: str,
    *,
    pictures: int,
    seconds: float,
) -> str:
    """The whole page, in Markdown."""
    seen, unseen = (group.scores for group in groups)
    first = groups[0].wanted[0].text
    pairs = ", ".join(f"{hue} with {count}" for hue, count in UNSEEN)
    bars = [(line, "met" if met else "**missed**") for line, met in verdicts(groups, effects, training)]
    return "\n\n".join(
        [
            "# Words to pictures: embedded flowers",
            f"`{command} --write`",
            f"A prompt such as “{first}” names six attributes. Training never showed these pairs of colour and petal "
            f"count together: {pairs}. All six attributes right: {seen.all_right.text()} on seen pairs, "
            f"{unseen.all_right.text()} on unseen ones.",
            "## Bars",
            table(["bar", "verdict"], bars, texts=2),
            "## Attributes right",
            _rates(groups),
            "Share of pictures ± standard error. “Cannot tell” counts as wrong. Chance is one in as many values as "
            "there are: " + ", ".join(f"{NAMES[n]} {len(v)}" for n, v in ATTRIBUTES.items()) + ".",
            "### By wording",
            _wordings(groups),
            "### Unseen pairs one by one",
            _by_pair(groups[1]),
            "## The reader's own error",
            _reader(groups, reader),
            *(["## One word less, one word other", _words(effects)] if effects else []),
            "## Training",
            "; ".join(t.text() for t in training) + ". Time is that of steps and of waiting for data, as the run "
            f"wrote it down. {pictures} pictures were sampled and read here in {seconds / 60:.1f} minutes.",
            "![the first prompts of each kind, nothing picked](text.png)",
            "The first prompts of each kind, nothing picked; what was read otherwise than it was asked for is named.",
            prompts_shown(groups),
            machine(torch.get_num_threads()),
        ]
    )


def _split(groups: Sequence[Group]) -> list[tuple[str, Group]]:
    parts = []
    for group in groups:
        parts.append((f"{group.name}, both", group))
        for code, language in LANGUAGES.items():
            parts.append((f"{group.name}, {language}", group.part(language=code)))
    return parts


def _row(scores: Scores) -> list[str]:
    return [scores.attributes[name].text() for name in ATTRIBUTES] + [scores.all_right.text()]


def _rates(groups: Sequence[Group]) -> str:
    rows = [[name, len(part.wanted), *_row(part.scores)] for name, part in _split(groups)]
    return table(["pairs", "pictures", *NAMES.values(), "all right"], rows)


def _wordings(groups: Sequence[Group]) -> str:
    rows = []
    for code, language in LANGUAGES.items():
        for way in range(len(STYLES[code][1])):
            parts = [g.part(language=code, way=way) for g in groups]
            example = next((w.text for part in parts for w in part.wanted), "")
            rows.append([language, example, *(part.scores.all_right.text() for part in parts)])
    return table(["", "for example", "all right, seen", "all right, unseen"], rows, texts=2)


def _by_pair(group: Group) -> str:
    rows = []
    for hue, count in UNSEEN:
        part = group.part(pair=(hue, count))
        scores = part.scores
        counts = [str(v) for v in part.reading.values["petal_count"] if v != count]
        instead = ", ".join(f"{v}: {counts.count(v)}" for v in sorted(set(counts)))
        rates = [scores.attributes["petal_hue"].text(), scores.attributes["petal_count"].text()]
        rows.append([f"{hue} with {count}", len(part.wanted), *rates, instead.replace("None", "?") or "–"])
    return table(["pair", "pictures", "colour right", "count right", "counts read instead"], rows)


def _reader(groups: Sequence[Group], reader: AttributeReader) -> str:
    """On fresh drawings of what the prompts ask for, and as it was measured after its training."""
    rows = [["clean drawings, after training", *(reader.accuracy[n].text() for n in ATTRIBUTES), "–"]]
    for group in groups:
        values = [w.values for w in group.wanted]
        flowers = [sample_plain(SEED - 1, i, None, **v) for i, v in enumerate(values)]
        # As large as the samples, so that they are made smaller on the same way.
        fresh = drawn(flowers, group.pictures[0].height if group.pictures else SIZE)
        rows.append([f"drawings of the prompts, {group.name}", *_row(reader.scores(fresh, values))])
        blind = group.scores.cannot_tell
        rows.append([f"samples it cannot tell, {group.name}", *(str(blind[n]) for n in ATTRIBUTES), "–"])
    text = table(["", *NAMES.values(), "all right"], rows)
    return f"{text}\n\nReader {reader.hash}, trained on drawings of all pairs, unseen ones too."


def _words(effects: Sequence[WordEffect]) -> str:
    rows = []
    for e in effects:
        kept = [e.others_before.text(), e.others_without.text(), e.others_changed.text()]
        chance = f"{1 / len(ATTRIBUTES[e.attribute]):.0%}"
        rows.append([NAMES[e.attribute], e.before.text(), e.still.text(), chance, e.followed.text(), *kept])
    head = ["word", "named", "left out", "by chance", "changed: new value", "others: named", "left out", "changed"]
    text = table(head, rows)
    return (
        f"{text}\n\nThe same seeds with the whole prompt, without the word, and with another word in its place. "
        "“Left out” is how often the first value is still there. “Others” is all other five attributes right."
    )


SHOWN = 7
"""Prompts of each kind on the sheet."""


def columns(groups: Sequence[Group]) -> list[tuple[str, Group, list[int]]]:
    """(title, group, first prompts) of each group and language."""
    return [
        (
            f"{group.name} pairs, {language}",
            group,
            [i for i, w in enumerate(group.wanted) if w.language == code][:SHOWN],
        )
        for group in groups
        for code, language in LANGUAGES.items()
    ]


def prompts_shown(groups: Sequence[Group]) -> str:
    """The prompts of the sheet, numbered as there: its fonts may lack letters that a page has."""
    lines = []
    for letter, (title, group, members) in zip("ABCDEFGH", columns(groups), strict=False):
        lines.append(f"{letter}, {title}:\n")
        lines += [f"{number}. {group.wanted[index].text}" for number, index in enumerate(members, start=1)]
        lines.append("")
    return "\n".join(lines)


def sheet(groups: Sequence[Group], *, scale: int = 3, width: int = 330) -> Image.Image:
    """The first prompts of each group and language, a column each: the picture, the prompt, and what is wrong."""
    side = groups[0].pictures[0].width * scale
    room, gap, head = side + width, 18, 34
    parts = columns(groups)
    paper = style.canvas(len(parts) * (room + gap) + gap, head + SHOWN * (side + gap) + gap)
    draw = ImageDraw.Draw(paper)
    for column, (letter, (title, group, members)) in enumerate(zip("ABCDEFGH", parts, strict=False)):
        left = gap + column * (room + gap)
        style.draw_text(draw, (left, 10), f"{letter}  {title}", 15, bold=True)
        for row, index in enumerate(members):
            top = head + row * (side + gap)
            paper.paste(enlarge(group.pictures[index].convert("RGB"), scale), (left, top))
            wanted, read = group.wanted[index], group.reading.picture(index)
            drawable = wanted.text.isascii() or style.japanese_font() is not None
            text = f"{letter}{row + 1}  {wanted.text}" if drawable else f"{letter}{row + 1}  (Japanese: see the page)"
            wrong = [f"{NAMES[n]}: {read[n] or '?'}" for n, v in wanted.values.items() if read[n] != v]
            y = top
            for line in wrapped(text, 13, width - 16):
                style.draw_text(draw, (left + side + 8, y), line, 13)
                y += 18
            for line in wrapped("read: " + ", ".join(wrong), 12, width - 16) if wrong else []:
                style.draw_text(draw, (left + side + 8, y + 2), line, 12, colour="#b3261e")
                y += 16
    return paper


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines no wider than `width` pixels, cut at spaces where there are any, else between letters."""
    pieces = [f"{word} " for word in text.split(" ")] if " " in text else list(text)
    lines = [""]
    for piece in pieces:
        if lines[-1] and style.text_width((lines[-1] + piece).rstrip(), size) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


if __name__ == "__main__":
    sys.exit(main())
