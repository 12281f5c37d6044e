"""The figures of docs/theory, from closed-form denoisers: nothing is trained and nothing is random but by its seed.

python docs/theory/figures.py [NAME ...]        writes docs/pictures/theory-NAME.png
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import figures_families as families
import figures_ground as ground
import torch
from figure_tools import PICTURES
from PIL import Image

from kakusan.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: dict[str, Callable[[], Figure]] = {
    "index": ground.index,
    "gaussian": ground.gaussian,
    "chain": ground.chain,
    "denoiser": ground.denoiser,
    "bound": ground.bound,
    "ddpm": ground.ddpm,
    "ddim": ground.ddim,
    "sde": families.sde,
    "vdm": families.vdm,
    "edm": families.edm,
    "flow": families.flow,
    "likelihood": families.likelihood,
    "samplers": families.samplers,
    "guidance": families.guidance,
}


def main(names: Sequence[str]) -> None:
    unknown = set(names) - set(FIGURES)
    if unknown:
        raise SystemExit(f"no figure is called {sorted(unknown)}; there are {', '.join(FIGURES)}")
    for name in names or FIGURES:
        figure = FIGURES[name]()
        style.use_bundled_font(figure)
        figure.tight_layout(w_pad=1.6, h_pad=1.8)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=150)
        # A palette is a third of the size, and holds the style's few colours and one ramp without a visible step.
        picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        picture.save(PICTURES / f"theory-{name}.png", optimize=True)
        print(PICTURES / f"theory-{name}.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
