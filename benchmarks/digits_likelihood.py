"""Likelihood on real data: bits/dim of diffusion models on the 8 x 8 digits, beside a mixture and an autoregression.

    python benchmarks/digits_likelihood.py --minutes 10            # each model; writes docs/results/likelihood.md
    python benchmarks/digits_likelihood.py --minutes 1 --only vdm  # a try

All models see the same pictures: nine tenths of the training part to train on, one tenth to choose the step (and the
baselines' sizes) by, and the 355 held-out pictures, which decide nothing, to report. The trained models stay in
runs/digits-likelihood/NAME, for `kakusan compress` and benchmarks/codec.py.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from digits_baselines import fit_autoregressive, fit_mixtures
from torch import Tensor

import kakusan
from kakusan import building, choices, model_folder, runtime
from kakusan.config import TrainConfig, merge
from kakusan.data.source import Pictures, open_data, split_held_out
from kakusan.likelihood import (
    Categorical,
    Exact,
    Hutchinson,
    TruncatedNormalNoise,
    UniformNoise,
    dequantised_log_prob,
    variational_bound,
)
from kakusan.model_folder import Model, ModelFacts
from kakusan.recipes import RECIPES
from kakusan.train.ema import EmaProfile
from kakusan.train.feed import Feed
from kakusan.train.optim import OptimSettings
from kakusan.train.trainer import DiffusionLoss, Group, Trainer

RUNS = Path(__file__).parent.parent / "runs" / "digits-likelihood"
RESULTS = Path(__file__).parent.parent / "docs" / "results"
SMALL: dict[str, Any] = {"width": 32, "multipliers": [1, 2], "depth": 2, "dropout": 0.1, "conditional": False}
MODELS: dict[str, dict[str, Any]] = {
    "vdm": {"recipe": "vdm", "model": SMALL},
    "vdm without Fourier features": {"recipe": "vdm", "model": {**SMALL, "fourier": False}},
    "cosine, v": {"recipe": None, "model": SMALL},
}


def settings(name: str) -> TrainConfig:
    """The configuration of one model."""
    given = MODELS[name]
    config = merge(TrainConfig(), RECIPES[given["recipe"]]()) if given["recipe"] else TrainConfig()
    return merge(config, {"model": given["model"]})


def stored(pictures: Pictures) -> Tensor:
    """All pictures (N, 1, 8, 8) as integers."""
    import numpy as np

    return pictures.read(np.arange(len(pictures)))


@torch.no_grad()
def bound(model: Model, x0: Tensor, levels: int, draws: int, seed: int = 0) -> dict[str, Tensor]:
    """The continuous bound's terms in nats, (N,) each."""
    seeds = range(seed, seed + len(x0))
    terms = variational_bound(model.denoiser, x0, decoder=Categorical(levels), seeds=list(seeds), draws=draws)
    return {**terms.named(), "total": terms.total}


def train(name: str, learn: Pictures, valid: Tensor, *, minutes: float, seed: int = 0) -> tuple[Model, ModelFacts, str]:
    """Train for so long; the averaged weights that are best on the validation pictures."""
    config = settings(name)
    spec = learn.spec
    levels = Categorical.for_data(spec).levels
    torch.manual_seed(seed)
    model = building.build_model(config.model, spec)
    objective = choices.build_objective(config.objective, spec)
    group = Group(
        list(model.parameters()),
        DiffusionLoss(model, objective, seed=seed),
        OptimSettings(rate=1e-3, warmup=200, decay=0.0, weight_decay=0.01),
    )
    trainer = Trainer(
        model, [group], Feed(learn, seed=seed, batch=64), steps=10**9, seed=seed, profiles={"ema": EmaProfile(0.08)}
    )
    twin = building.build_model(config.model, spec).eval()
    best, kept, at = math.inf, {}, 0
    began = last = time.monotonic()
    for step in trainer.run():
        now = time.monotonic()
        if now - last > minutes * 60.0 / 25.0:
            last = now
            twin.load_state_dict({**model.state_dict(), **trainer.ema.averages["ema"]})
            value = float(bound(twin, valid, levels, 8)["total"].mean()) / valid[0].numel() / math.log(2.0)
            print(f"  {name}: step {step.step}, {now - began:.0f} s, validation {value:.4f} bits/dim", flush=True)
            if value < best:
                best, at = value, step.step
                kept = {k: v.clone() for k, v in twin.state_dict().items()}
            last = time.monotonic()
        if now - began > minutes * 60.0:
            break
    twin.load_state_dict(kept)
    count = sum(p.numel() for p in twin.parameters())
    said = f"{count / 1e6:.2f} M parameters, best at step {at} of {step.step}"
    return twin, ModelFacts(spec, objective, {"steps": at, "said": said}, ("ema",)), said


def save(name: str, model: Model, facts: ModelFacts) -> None:
    """Keep the model as a folder that every verb opens."""
    shutil.rmtree(folder(name), ignore_errors=True)
    folder(name).mkdir(parents=True)
    model_folder.write(folder(name), model, facts, {"ema": dict(model.state_dict())})


def flow(model: Model, x0: Tensor, noise: Any, divergence: Any) -> Tensor:
    """-log of the flow's lower bound on P in nats, (N,)."""
    found = [
        dequantised_log_prob(
            model.denoiser,
            part,
            noise=noise,
            seeds=list(range(i * 64, i * 64 + len(part))),
            num_steps=16,
            divergence=divergence,
        )
        for i, part in enumerate(x0.split(64))
    ]
    return -torch.cat(found)


def folder(name: str) -> Path:
    """Where a model lies."""
    return RUNS / name.replace(",", "").replace(" ", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[*MODELS, "mixture", "autoregressive"])
    parser.add_argument("--exact-pictures", type=int, default=4, help="of which the flow's exact trace is taken too")
    parser.add_argument("--again", action="store_true", help="measure the models that lie there, without training")
    options = parser.parse_args()
    runtime.tune()
    torch.set_num_threads(options.threads)
    learn, validation = split_held_out(open_data("digits"), 0.1)
    held_out = open_data("digits:held-out")
    spec = learn.spec
    levels = Categorical.for_data(spec).levels
    valid, test = (spec.to_model(stored(part)) for part in (validation, held_out))
    RUNS.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        rows: dict[str, Any] = {}
        if name in MODELS:
            if options.again:
                pipeline = kakusan.load(folder(name))
                model, said = (
                    pipeline.model,
                    str(pipeline.facts.training.get("said", "")) or f"step {pipeline.facts.training['steps']}",
                )
            else:
                model, facts, said = train(name, learn, valid, minutes=options.minutes)
                save(name, model, facts)
            model.requires_grad_(False)
            terms = bound(model, test, levels, 96)
            rows["bound"] = {key: summary(value) for key, value in terms.items()}
            print(name, said, json.dumps(rows), flush=True)
            noises = {"truncated normal": TruncatedNormalNoise(levels), "uniform": UniformNoise(levels)}
            for kind, noise in noises.items():
                part = test if kind == "truncated normal" else test[: len(test) // 4]
                rows[f"flow, {kind}"] = {"total": summary(flow(model, part, noise, Hutchinson(1)))}
            few = test[: options.exact_pictures]
            for way in (Exact(), Hutchinson(8)):
                found = flow(model, few, noises["truncated normal"], way)
                rows[f"flow, truncated normal, {type(way).__name__} trace, few"] = {"total": summary(found)}
        elif name == "mixture":
            said, nats = fit_mixtures(stored(learn), stored(validation), stored(held_out), levels)
            rows["exact or bound"] = {"total": summary(nats)}
        else:
            said, nats = fit_autoregressive(
                stored(learn), stored(validation), stored(held_out), levels, minutes=options.minutes
            )
            rows["exact"] = {"total": summary(nats)}
        print(name, said, json.dumps(rows), flush=True)
        result = {"name": name, "said": said, "rows": rows, "minutes": options.minutes, "threads": options.threads}
        (RUNS / f"{name.replace(',', '').replace(' ', '-')}.json").write_text(json.dumps(result), "utf-8")
    write(len(learn), len(validation), len(held_out), levels)


def summary(nats: Tensor) -> dict[str, float]:
    """Mean and standard error over pictures in bits/dim."""
    bits = nats.double() / 64.0 / math.log(2.0)
    return {"value": float(bits.mean()), "error": float(bits.std()) / len(bits) ** 0.5, "n": len(bits)}


def write(learn: int, valid: int, test: int, levels: int) -> None:
    """The page, from whatever results are there."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(RUNS.glob("*.json"))]
    flat = [(r, way, row) for r in found for way, row in r["rows"].items()]
    flat.sort(key=lambda entry: entry[2]["total"]["value"])
    lines = [
        "# Likelihood on real data: the 8 x 8 digits",
        "",
        f"Command: `python benchmarks/digits_likelihood.py --minutes {max(r['minutes'] for r in found):g}`.",
        "",
        f"{learn} pictures to train on, {valid} to choose step and size by, {test} held out and looked at once. One",
        f"channel, {levels} levels, so {math.log2(levels):.3f} bits/dim is what knowing nothing costs. *Bound* is the",
        "continuous variational bound with the exact discrete decoder (96 draws for each picture); *flow* the",
        "probability flow on dequantised data (16 Runge-Kutta steps, a random probe for the trace), also a bound.",
        "Errors are standard errors over pictures.",
        "",
        "| model | way | bits/dim | +- | pictures | about it |",
        "|---|---|---|---|---|---|",
    ]
    for r, way, row in flat:
        t = row["total"]
        lines.append(f"| {r['name']} | {way} | {t['value']:.4f} | {t['error']:.4f} | {t['n']} | {r['said']} |")
    lines += [
        "",
        "Terms of the bound in bits/dim:",
        "",
        "| model | prior | reconstruction | diffusion |",
        "|---|---|---|---|",
    ]
    for r, way, row in flat:
        if way == "bound":
            cells = " | ".join(f"{row[key]['value']:.4f}" for key in ("prior", "reconstruction", "diffusion"))
            lines.append(f"| {r['name']} | {cells} |")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "likelihood.md").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"wrote {RESULTS / 'likelihood.md'}")


if __name__ == "__main__":
    main()
