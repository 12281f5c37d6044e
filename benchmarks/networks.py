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

SHAPE = (3, 32, 32)
Call = Callable[[Any, Tensor, Tensor], Tensor]
OUR_UNET, OUR_DIT = "kakusan", "kakusan DiT"


def build_kakusan() -> tuple[nn.Module, Call]:
    from kakusan.nn import UNet

    return UNet.for_data(SHAPE[0], SHAPE[1:]), lambda network, x, c: network(x, c)


def build_kakusan_direct() -> tuple[nn.Module, Call]:
    from kakusan.nn import winograd

    winograd.allow(False)
    return build_kakusan()


def build_diffusers() -> tuple[nn.Module, Call]:
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=SHAPE[1],
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        block_out_channels=(64, 80, 144),
        norm_num_groups=16,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    return network, lambda network, x, c: network(x, c).sample


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
        tuned: whether its process gets `kakusan.runtime.tune`; otherwise it runs as shipped.
        needs: packages and, after a colon, the names in them without which it is left out.
        trains, samples: where it takes part.
    """

    build: Callable[[], tuple[nn.Module, Call]]
    tuned: bool
    needs: str = "kakusan"
    trains: bool = True
    samples: bool = True

    def missing(self) -> str | None:
        """Why it cannot take part here, or None."""
        module, _, name = self.needs.partition(":")
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            return f"{module} is not installed"
        if name and not hasattr(importlib.import_module(module), name):
            return f"{module} has no {name}"
        return None


UNETS: dict[str, Contestant] = {
    OUR_UNET: Contestant(build_kakusan, True),
    "kakusan, direct convolutions": Contestant(build_kakusan_direct, True, samples=False),
    "diffusers UNet2DModel, as shipped": Contestant(build_diffusers, False, "diffusers"),
    "diffusers UNet2DModel, same settings": Contestant(build_diffusers, True, "diffusers"),
    "denoising-diffusion-pytorch Unet, as shipped": Contestant(
        build_denoising_diffusion_pytorch, False, "denoising_diffusion_pytorch"
    ),
    "denoising-diffusion-pytorch Unet, same settings": Contestant(
        build_denoising_diffusion_pytorch, True, "denoising_diffusion_pytorch", samples=False
    ),
    "azula UNet, as shipped": Contestant(build_azula, False, "azula", trains=False),
}
DITS: dict[str, Contestant] = {
    OUR_DIT: Contestant(build_kakusan_dit, True, "kakusan.nn:DiT"),
    "diffusers DiTTransformer2DModel, as shipped": Contestant(build_diffusers_dit, False, "diffusers"),
    "diffusers DiTTransformer2DModel, same settings": Contestant(build_diffusers_dit, True, "diffusers"),
}
CONTESTANTS = {**UNETS, **DITS}


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
