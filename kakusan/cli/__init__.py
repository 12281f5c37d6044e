"""The command line: one verb, its options, an exit code. torch is imported after the options are understood."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from kakusan import __version__
from kakusan.specs import suggestion

# Verb: (module with `main(argv) -> int`, what it does).
VERBS = {
    "demo": ("kakusan.cli.demo", "train on embedded flowers, sample, and show everything in runs/demo"),
    "train": ("kakusan.cli.train", "train a model on a folder of pictures, or go on with a run"),
    "plan": ("kakusan.cli.plan", "measure what a run would take, and how to cut its batches, before its first step"),
    "train-classifier": (
        "kakusan.cli.train_classifier",
        "train a classifier of noisy pictures, which leads a model to their classes",
    ),
    "train-autoencoder": (
        "kakusan.cli.train_autoencoder",
        "train an autoencoder of your pictures, for diffusion on latents",
    ),
    "train-clip": ("kakusan.cli.train_clip", "train CLIP on pictures with captions, which reads prompts"),
    "train-prior": ("kakusan.cli.train_prior", "train the way from a text to the CLIP vector of a picture (DALL-E 2)"),
    "design": ("kakusan.cli.design", "train all models of a published design: GLIDE, DALL-E 2 or Imagen"),
    "train-control": (
        "kakusan.cli.train_control",
        "teach a trained model to follow edges, a sketch and the like, and leave it as it is",
    ),
    "watch": ("kakusan.cli.watch", "follow a run: distances of its checkpoints to real pictures, and the best of them"),
    "sample": ("kakusan.cli.sample", "draw pictures from a run, or again from a picture's own record"),
    "generate": ("kakusan.cli.generate", "draw pictures of a text, with a model trained on captions"),
    "sweep": ("kakusan.cli.sweep", "draw the same pictures under every value of one or two settings"),
    "ema": ("kakusan.cli.ema", "rebuild weight averages of any width after training"),
    "reflow": ("kakusan.cli.reflow", "straighten a trained model by its own samples, so that it needs fewer steps"),
    "list": ("kakusan.cli.runs", "show the runs with their figures and last pictures"),
    "inspect": ("kakusan.cli.inspect", "show every fact a checkpoint holds"),
    "eval": ("kakusan.cli.evaluate", "measure samples beside real pictures: distances, faults, copies, and a page"),
    "doctor": ("kakusan.cli.doctor", "tell whether bad samples are the network's or the sampler's fault"),
    "get-encoder": ("kakusan.cli.get_encoder", "fetch a pretrained CLIP or T5 into a folder, to read texts"),
    "data": ("kakusan.cli.data", "check pictures, fetch a known data set, measure the loader, show its cache"),
    "inpaint": ("kakusan.cli.inpaint", "paint parts of a picture anew: white in the mask; the rest stays, bit for bit"),
    "upscale": ("kakusan.cli.upscale", "enlarge a small picture: several samples of what it may have been"),
    "deblur": ("kakusan.cli.deblur", "sharpen a picture blurred by a Gaussian, a motion or a given kernel"),
    "colorize": ("kakusan.cli.colorize", "give colours to a gray picture, in several ways"),
    "denoise": ("kakusan.cli.denoise", "remove noise, whose level is found from the picture"),
    "sense": ("kakusan.cli.sense", "compressed sensing: restore a picture from few random mixtures of its values"),
    "restyle": ("kakusan.cli.restyle", "begin as one class and finish as another, also with a picture of your own"),
    "invert": ("kakusan.cli.invert", "find the noise that becomes a given picture, and say how exactly"),
    "interpolate": ("kakusan.cli.interpolate", "go smoothly between two pictures, classes or seeds"),
    "vary": ("kakusan.cli.vary", "draw pictures near a given one, and show where they differ"),
    "textdiff": ("kakusan.cli.textdiff", "change a picture by the difference of two texts, by a model of CLIP vectors"),
    "transform": ("kakusan.cli.transform", "make a picture from a picture, with a model trained on pairs"),
    "cascade": ("kakusan.cli.cascade", "draw small pictures with one model and enlarge them with the next"),
    "forward": ("kakusan.cli.forward", "drown a picture in noise: the forward process with its SNR curve"),
    "compress": ("kakusan.cli.compress", "code pictures without loss in a small file, by a trained model"),
    "decompress": ("kakusan.cli.decompress", "get the pictures back, bit for bit, with the same model"),
    "likelihood": ("kakusan.cli.likelihood", "bits per dimension of held-out pictures, by a bound or the flow"),
    "compare": ("kakusan.cli.compare", "train diffusion and its rivals in equal time, or measure runs and samplers"),
    "lab": ("kakusan.cli.lab", "draw a 2-D set: density, score, sampling and solver errors, with a page to play with"),
}


def usage() -> str:
    """What `kakusan --help` prints."""
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {verb:<{width}}{what}" for verb, (_, what) in VERBS.items())
    return (
        f"kakusan {__version__}: train, explain and use diffusion models on your own data\n\n"
        f"usage: kakusan VERB [options]        kakusan VERB --help for the options of a verb\n\n{verbs}\n\n"
        "first steps:\n"
        "  kakusan demo\n"
        "  kakusan train --data FOLDER --out runs/mine --minutes 30\n"
        "  kakusan sample runs/mine --num 16 --out grid.png\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V"):
        print(f"kakusan {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        print(f"kakusan: no verb {verb!r}{suggestion(verb, list(VERBS))}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        code: int = importlib.import_module(VERBS[verb][0]).main(rest)
        return code
    except BrokenPipeError:
        # The reader (`| head`) has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, ImportError, OSError) as error:
        # Errors for people: what was wrong and what to do. Anything else is a bug and keeps its traceback.
        print(f"kakusan {verb}: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        print(
            f"kakusan {verb}: there is not enough memory. Use a smaller --batch; in training also --micro-batch or "
            f"--checkpointing, which give the same result, or a smaller --size or --width "
            f"({str(error).splitlines()[0]})",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
