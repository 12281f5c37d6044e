"""The distances beside torchmetrics and torch-fidelity on the same features.

    python -m pip install --no-deps --target peers torchmetrics lightning-utilities torch-fidelity
    PYTHONPATH=peers python benchmarks/metric_parity.py --write

Both ask for torchvision, which has no build for every torch; nothing that is compared here uses it, so an empty module
stands in for it while they are imported. MIND is in torch-fidelity's repository and not in the 0.4.0 of PyPI: for its
row, put a checkout of https://github.com/toshas/torch-fidelity before `peers` in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import ROOT, finish, installed, table

PAGE = ROOT / "docs" / "results" / "metric-parity.md"
BAR = 1e-4
"""Relative difference allowed by the issue."""


class _Empty(types.ModuleType):
    """Whatever is asked for is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(MetaPathFinder, Loader):
    """Finds empty modules under one name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        ours = fullname == self.name or fullname.startswith(self.name + ".")
        return ModuleSpec(fullname, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextmanager
def _stood_in(name: str) -> Iterator[None]:
    """Empty modules in the place of a package that is missing."""
    if importlib.util.find_spec(name) is not None:
        yield
        return
    finder = _Finder(name)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for known in [module for module in sys.modules if module == name or module.startswith(name + ".")]:
            del sys.modules[known]


@dataclass(frozen=True)
class Peers:
    """Modules of the two packages; None for what the installed version lacks."""

    fid: Any
    kid: Any
    fidelity_fid: Any
    fidelity_kid: Any
    fidelity_prc: Any
    fidelity_mind: Any


def open_peers() -> Peers:
    """Import both packages.

    Raises:
        ModuleNotFoundError: they are not installed.
    """
    names = ["metric_fid", "metric_kid", "metric_prc", "metric_mind"]
    with _stood_in("torchvision"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = []
        for name in ["torchmetrics.image.fid", "torchmetrics.image.kid", *(f"torch_fidelity.{n}" for n in names)]:
            try:
                found.append(importlib.import_module(name))
            except ModuleNotFoundError as error:
                if not name.endswith("mind") or error.name != name:
                    raise
                found.append(None)
    return Peers(*found)


@dataclass(frozen=True)
class Row:
    """One number from both sides."""

    case: str
    distance: str
    peer: str
    ours: float
    theirs: float
    note: str

    @property
    def relative(self) -> float:
        """|ours - theirs| over |theirs|."""
        return abs(self.ours - self.theirs) / max(abs(self.theirs), 1e-12)


def cases() -> dict[str, tuple[Any, Any]]:
    """Pairs of features, float64: more samples than dimensions, fewer (singular covariances), and unequal numbers."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def drawn(n: int, dim: int, shift: float, scale: float) -> Any:
        mixing = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(dim)) / dim**0.5
        x = torch.randn(n, dim, dtype=torch.float64, generator=generator) * scale
        return torch.relu(x @ mixing + 0.3 + shift)

    return {
        "n = 400, D = 64": (drawn(400, 64, 0.1, 0.9), drawn(400, 64, 0.0, 1.0)),
        "n = 150, D = 256": (drawn(150, 256, 0.05, 1.1), drawn(150, 256, 0.0, 1.0)),
        "n = 300 and 420, D = 32": (drawn(300, 32, 0.0, 0.8), drawn(420, 32, 0.0, 1.0)),
    }


def compare(peers: Peers) -> list[Row]:
    """Every number that both sides have, on every case that the peer takes."""
    import torch
    from torch import nn

    from kakusan.metrics.frechet import frechet
    from kakusan.metrics.kernel import kernel_distance
    from kakusan.metrics.manifold import Precision, Recall
    from kakusan.metrics.sliced import squared_wasserstein

    class Given(nn.Module):
        """Features that are already there, of a size that is said."""

        def __init__(self, dim: int) -> None:
            super().__init__()
            self.num_features = dim

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    rows = []
    for case, (a, b) in cases().items():
        dim, equal = a.shape[1], len(a) == len(b)
        both, first, second = torch.cat([a, b]), torch.arange(len(a)), torch.arange(len(a), len(a) + len(b))

        measure = peers.fid.FrechetInceptionDistance(feature=Given(dim), normalize=True)
        measure.set_dtype(torch.float64)
        measure.update(a, real=False)
        measure.update(b, real=True)
        rows.append(Row(case, "frechet", "torchmetrics", frechet(a, b), float(measure.compute()), ""))
        moments = [peers.fidelity_fid.fid_features_to_statistics(x) for x in (a, b)]
        theirs = peers.fidelity_fid.fid_statistics_to_metric(*moments, False)["frechet_inception_distance"]
        rows.append(Row(case, "frechet", "torch-fidelity", frechet(a, b), theirs, ""))

        if equal:
            note = "one subset of all samples; by default the mean over subsets of 1000"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kid = peers.kid.KernelInceptionDistance(feature=Given(dim), subsets=1, subset_size=len(a))
            kid.set_dtype(torch.float64)
            kid.update(a, real=False)
            kid.update(b, real=True)
            ours = kernel_distance(a, b)
            rows.append(Row(case, "kernel", "torchmetrics", ours, float(kid.compute()[0]), note))
            settings: dict[str, Any] = {"kid_subsets": 1, "kid_subset_size": len(a), "verbose": False}
            theirs = peers.fidelity_kid.kid_features_to_metric(a, b, **settings)["kernel_inception_distance_mean"]
            rows.append(Row(case, "kernel", "torch-fidelity", ours, theirs, note))

        settings = {"prc_neighborhood": 5, "prc_batch_size": 10000, "save_cpu_ram": False, "verbose": False}
        found = peers.fidelity_prc.prc_features_to_metric(a, b, **settings)
        for distance in (Precision(), Recall()):
            ours = distance.on(both)(first, second)
            rows.append(Row(case, distance.name, "torch-fidelity", ours, found[distance.name], "k = 5; by default 3"))

        if peers.fidelity_mind is not None and equal:
            settings = {"mind_num_projections": 256, "cuda": False, "rng_seed": 2020, "verbose": False}
            theirs = peers.fidelity_mind.mind_features_to_metric(a, b, **settings)["monge_inception_distance"]
            # The same directions: drawn as it draws them, after which its own numbers are of single precision.
            drawn = torch.randn(256, dim, generator=torch.Generator().manual_seed(2020))
            drawn = (drawn / drawn.norm(dim=1, keepdim=True)).double()
            shadows = [(drawn @ x.T).numpy() for x in (a, b)]
            ours = 3.0 * dim * float(squared_wasserstein(*shadows).mean())
            note = "along its directions; of unequal numbers it drops some, we do not"
            rows.append(Row(case, "sliced", "torch-fidelity (repository)", ours, theirs, note))
    return rows


def page(rows: list[Row]) -> str:
    """The result as a Markdown page."""
    import torch

    worst = max(rows, key=lambda row: row.relative)
    body = table(
        ["features", "distance", "peer", "ours", "theirs", "relative difference", "the peer's setting"],
        [(r.case, r.distance, r.peer, f"{r.ours:.8g}", f"{r.theirs:.8g}", f"{r.relative:.1e}", r.note) for r in rows],
        texts=3,
    )
    versions = ", ".join(f"{n} {installed(n) or 'unknown'}" for n in ("torchmetrics", "torch-fidelity"))
    return f"""# The distances beside torchmetrics and torch-fidelity

`PYTHONPATH=peers python benchmarks/metric_parity.py --write`, with the peers installed without their dependencies:
`python -m pip install --no-deps --target peers torchmetrics lightning-utilities torch-fidelity`. The same features go
to both sides. Largest relative difference: **{worst.relative:.1e}** ({worst.distance}, {worst.peer}); the bar is 1e-4.

{body}

- **frechet**: both peers take the square roots of the eigenvalues of the product of the covariances, we the singular
  values of a product of centred features. Where covariances are singular (n < D) an eigenvalue that should be 0 comes
  out as rounding, and its root as rounding's root: that is the difference in those rows. No side adds an epsilon.
- **kernel**: torchmetrics and torch-fidelity average over random subsets; with one subset of all samples they compute
  the same number as we do. With subsets drawn from all samples the mean is the same in expectation and noisier.
- **precision, recall**: the same definition; the peer's k is 3, ours 5.
- **sliced**: the same formula (3 D times the mean squared 2-Wasserstein distance of projections).
- **density, coverage**: neither peer has them. They are checked against closed forms in `tests/metrics`.

{versions}, torch {torch.__version__}.
"""


def main() -> int:
    """Compare, print the page, write it where asked to; 1 where a number is further off than the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    try:
        peers = open_peers()
    except ModuleNotFoundError as error:
        parser.error(f"{error}; install the peers as the beginning of {Path(__file__).name} says")
    rows = compare(peers)
    finish(page(rows), PAGE if options.write else None)
    return int(any(row.relative > BAR for row in rows))


if __name__ == "__main__":
    sys.exit(main())
