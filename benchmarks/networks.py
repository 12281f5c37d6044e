"""The networks that benchmarks compare, at equal parameters and arithmetic, each as its own library builds it.

Sizes agree with ours within 5% in arithmetic; the pages print parameters and FLOPs of each. Needs the `peers` extra;
torchvision and pytorch-fid are replaced by empty modules when they are not installed, since no network here uses them.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import common  # noqa: F401 (puts the package on the path)
import peak
import torch
from torch import Tensor, nn

from kakusan import runtime
from kakusan.config import EngineSettings
from kakusan.runtime import Precision
from kakusan.train.levers import COMPILED_FROM_MINUTES, choose_levers

SHAPE = (3, 32, 32)
Call = Callable[[Any, Tensor, Tensor], Tensor]
OUR_UNET, OUR_LARGE, OUR_DIT = "kakusan", "kakusan, 6.6 M", "kakusan DiT"


def build_kakusan() -> tuple[nn.Module, Call]:
    from kakusan.nn import UNet

    return UNet.for_data(SHAPE[0], SHAPE[1:]), lambda network, x, c: network(x, c)


def build_kakusan_direct() -> tuple[nn.Module, Call]:
    from kakusan.nn import winograd

    winograd.allow(False)
    return build_kakusan()


def build_diffusers(widths: tuple[int, ...] = (64, 80, 144), groups: int = 16) -> tuple[nn.Module, Call]:
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=SHAPE[1],
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        block_out_channels=widths,
        norm_num_groups=groups,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    return network, lambda network, x, c: network(x, c).sample


def build_kakusan_large() -> tuple[nn.Module, Call]:
    """As wide at each resolution as makes the parameters and arithmetic of `build_diffusers_large`."""
    from kakusan.nn import UNet

    network = UNet.for_data(SHAPE[0], SHAPE[1:], width=16, multipliers=(5, 9, 10), attention_levels=(1,))
    return network, lambda network, x, c: network(x, c)


def build_diffusers_large() -> tuple[nn.Module, Call]:
    return build_diffusers((64, 128, 128), groups=32)


def build_denoising_diffusion_pytorch() -> tuple[nn.Module, Call]:
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils", "pytorch_fid"):
        stub(name)
    stub("pytorch_fid.fid_score", "calculate_frechet_distance")
    stub("pytorch_fid.inception", "InceptionV3")
    from denoising_diffusion_pytorch import Unet

    network = Unet(dim=56, dim_mults=(1, 2, 3), channels=SHAPE[0], full_attn=(False, True, True))
    return network, lambda network, x, c: network(x, c)


def build_azula() -> tuple[nn.Module, Call]:
    from azula.nn.unet import UNet

    network = WithLevel(
        lambda features: UNet(
            SHAPE[0], SHAPE[0], hid_channels=(80, 128, 128), hid_blocks=(2, 2, 2), mod_features=features
        )
    )
    return network, lambda network, x, c: network(x, c)


def build_kakusan_dit() -> tuple[nn.Module, Call]:
    from kakusan.nn import DiT

    network = DiT(channels=SHAPE[0], rank=2, width=256, depth=8, patch=2)
    return network, lambda network, x, c: network(x, c)


def build_diffusers_dit() -> tuple[nn.Module, Call]:
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=SHAPE[0],
        num_layers=8,
        sample_size=SHAPE[1],
        patch_size=2,
        num_embeds_ada_norm=1000,
    )

    def call(network: Any, x: Tensor, c: Tensor) -> Tensor:
        labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return network(x, timestep=(c.expand(len(x)) * 999).long(), class_labels=labels).sample

    return network, call


def half_log_ratio(t: Tensor) -> Tensor:
    """What our networks are told in training on the straight path: half of log(alpha / sigma), about [-5, 5]."""
    return 0.5 * torch.log((1.0 - t) / t)


def thousand(t: Tensor) -> Tensor:
    """Times of networks that know a thousand steps."""
    return 999.0 * t


def same(t: Tensor) -> Tensor:
    """For a way of calling that rescales by itself."""
    return t


class WithLevel(nn.Module):
    """A network modulated by features of the noise level: what azula leaves to its user."""

    def __init__(self, build: Callable[[int], nn.Module], features: int = 256) -> None:
        super().__init__()
        self.level = nn.Sequential(nn.Linear(1, features), nn.SiLU(), nn.Linear(features, features))
        self.network = build(features)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.network(x, self.level(c_noise.expand(len(x))[:, None]))


@dataclass(frozen=True)
class Contestant:
    """A network to time.

    Args:
        build: makes the network and the way to call it as (network, x, c_noise).
        tuned: whether its process gets `kakusan.runtime.tune` and computes in the number format that `--precision auto`
            chooses on this machine; otherwise it runs as shipped, in float32.
        needs: packages and, after a colon, the names in them without which it is left out.
        trains, samples: where it takes part.
        compiled: trains compiled, where `kakusan train` does so by itself.
        precision: of a tuned one, in place of "auto".
        rescaled: of the time in [0, 1] what the network takes for a time in training.
    """

    build: Callable[[], tuple[nn.Module, Call]]
    tuned: bool
    needs: str = "kakusan"
    trains: bool = True
    samples: bool = True
    compiled: bool = False
    precision: str = "auto"
    rescaled: Callable[[Tensor], Tensor] = half_log_ratio

    def prepared(self, threads: int, *, training: bool = False) -> Precision:
        """The settings of this process, and the number format of forward passes.

        In training those of a long run, as which ours are compiled and others with the same settings are treated.
        """
        cpu = torch.device("cpu")
        torch.set_num_threads(threads)
        if not self.tuned:
            return runtime.pick_precision("fp32", cpu)
        runtime.tune(threads=threads, lasting=training and (self.compiles() or self.needs != "kakusan"))
        return runtime.pick_precision(self.precision, cpu)

    def compiles(self) -> bool:
        """Whether `kakusan train` would compile a long run of it on this machine."""
        with torch.device("meta"):
            network = self.build()[0]
        chosen = runtime.pick_precision(self.precision, torch.device("cpu")).name
        usual = choose_levers(
            EngineSettings(), torch.device("cpu"), backbone=network, precision=chosen, minutes=COMPILED_FROM_MINUTES
        )
        return self.compiled and usual.compile

    def missing(self) -> str | None:
        """Why it cannot take part here, or None."""
        module, _, name = self.needs.partition(":")
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            return f"{module} is not installed"
        if name and not hasattr(importlib.import_module(module), name):
            return f"{module} has no {name}"
        return None


UNETS: dict[str, Contestant] = {
    OUR_UNET: Contestant(build_kakusan, True, compiled=True),
    "kakusan, not compiled": Contestant(build_kakusan, True, samples=False),
    "kakusan, float32": Contestant(build_kakusan, True, precision="fp32"),
    "kakusan, float32, direct convolutions": Contestant(build_kakusan_direct, True, samples=False, precision="fp32"),
    "diffusers UNet2DModel, as shipped": Contestant(build_diffusers, False, "diffusers", rescaled=thousand),
    "diffusers UNet2DModel, same settings": Contestant(build_diffusers, True, "diffusers", rescaled=thousand),
    "denoising-diffusion-pytorch Unet, as shipped": Contestant(
        build_denoising_diffusion_pytorch, False, "denoising_diffusion_pytorch", rescaled=thousand
    ),
    "denoising-diffusion-pytorch Unet, same settings": Contestant(
        build_denoising_diffusion_pytorch, True, "denoising_diffusion_pytorch", samples=False, rescaled=thousand
    ),
    "azula UNet, as shipped": Contestant(build_azula, False, "azula", trains=False),
}
LARGE: dict[str, Contestant] = {
    OUR_LARGE: Contestant(build_kakusan_large, True, compiled=True, samples=False),
    "kakusan, 6.6 M, not compiled": Contestant(build_kakusan_large, True, samples=False),
    "diffusers UNet2DModel, 6.5 M, as shipped": Contestant(
        build_diffusers_large, False, "diffusers", samples=False, rescaled=thousand
    ),
    "diffusers UNet2DModel, 6.5 M, same settings": Contestant(
        build_diffusers_large, True, "diffusers", samples=False, rescaled=thousand
    ),
}
DITS: dict[str, Contestant] = {
    OUR_DIT: Contestant(build_kakusan_dit, True, compiled=True),
    "kakusan DiT, not compiled": Contestant(build_kakusan_dit, True, samples=False),
    "kakusan DiT, float32": Contestant(build_kakusan_dit, True, precision="fp32"),
    "diffusers DiTTransformer2DModel, as shipped": Contestant(build_diffusers_dit, False, "diffusers", rescaled=same),
    "diffusers DiTTransformer2DModel, same settings": Contestant(build_diffusers_dit, True, "diffusers", rescaled=same),
}
CONTESTANTS = {**UNETS, **LARGE, **DITS}


def facts(contestant: Contestant, *, backward: bool) -> dict[str, int]:
    """Parameters, and nominal FLOPs of one picture: forward, and with `backward` also backward."""
    with torch.device("meta"), torch.set_grad_enabled(backward):
        network, call = contestant.build()

        def run() -> None:
            out = call(network, torch.empty(1, *SHAPE), torch.empty(1))
            if backward:
                out.sum().backward()

        flops = peak.count(run)
    return {"parameters": sum(p.numel() for p in network.parameters()), "flops": flops}


def stub(name: str, *attributes: str) -> None:
    """An empty module in place of one that is not installed."""
    if name in sys.modules or ("." not in name and importlib.util.find_spec(name)):
        return
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []
    for attribute in attributes:
        setattr(module, attribute, None)
    if parent := sys.modules.get(name.rpartition(".")[0]):
        setattr(parent, name.rpartition(".")[2], module)
    sys.modules[name] = module
