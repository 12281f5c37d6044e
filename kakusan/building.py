"""A fresh model, network or denoiser from the settings that describe it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from kakusan.choices import (
    ATTENTION,
    BLOCKS,
    COUPLINGS,
    DISTANCES,
    LEARNED,
    LOSSES,
    TIMES,
    VARIANCES,
    build_pair,
    build_schedule,
    choose,
    parameterizations,
    weightings,
)
from kakusan.conditioning import ClassLabels, Conditioner
from kakusan.config import ModelSettings, TrainConfig
from kakusan.data.augment import LABELS
from kakusan.data.spec import DataSpec
from kakusan.denoiser import Denoiser
from kakusan.encoders import TextEncoder
from kakusan.encoders.conditioner import TOKENS, TextConditioner
from kakusan.likelihood.decoders import Categorical
from kakusan.model_folder import Model
from kakusan.nn import DiT, FourierFeatures, MagnitudePreservingUNet, Patched, Route, UNet, level_frequencies
from kakusan.nn.dit import depth_for
from kakusan.nn.tokens import ConditionTokens, CrossTokens
from kakusan.pairs import Pair, PairConditioner


@dataclass(frozen=True)
class Backbone:
    """A kind of network.

    Args:
        build: `build(settings, channels, size, **widths)` makes it, where widths are `out_channels`, `condition_width`,
            `augment_width`, `spatial_channels` and, for models of texts, `tokens`.
        dials: settings that it alone, or not every kind, uses.
    """

    build: Callable[..., nn.Module]
    dials: frozenset[str]

    def check(self, settings: ModelSettings) -> None:
        """Refuse settings that this kind of network would ignore.

        Raises:
            ValueError: naming them.
        """
        default = ModelSettings()
        foreign = frozenset().union(*(kind.dials for kind in BACKBONES.values())) - self.dials
        told = sorted(name for name in foreign if getattr(settings, name) != getattr(default, name))
        if told:
            raise ValueError(f"backbone = {settings.backbone} has no {', '.join(told)}: leave that out")


def build_unet(settings: ModelSettings, channels: int, size: Sequence[int], **widths: Any) -> nn.Module:
    """A U-Net, on patches where those are asked for."""
    blocks = choose(BLOCKS, settings.blocks, "kind of block")
    attention = choose(ATTENTION, settings.attention, "kind of attention")
    return _with_levels(UNet.for_data, settings, channels, size, {**widths, "blocks": blocks, "attention": attention})


def build_edm2(settings: ModelSettings, channels: int, size: Sequence[int], **widths: Any) -> nn.Module:
    """A magnitude-preserving U-Net, on patches where those are asked for."""
    return _with_levels(MagnitudePreservingUNet.for_data, settings, channels, size, widths)


def _with_levels(
    make: Callable[..., nn.Module],
    settings: ModelSettings,
    channels: int,
    size: Sequence[int],
    arguments: Mapping[str, Any],
) -> nn.Module:
    """A network of levels of resolution."""
    patch = settings.patch
    cells = patch ** len(size)
    derived: dict[str, Any] = {"multipliers": settings.multipliers} if settings.multipliers else {}
    if settings.attention_levels is not None:
        derived["attention_levels"] = settings.attention_levels
    network = make(
        channels * cells,
        [-(-side // patch) for side in size],
        width=settings.width,
        depth=settings.depth,
        dropout=settings.dropout,
        **{**arguments, **{name: arguments[name] * cells for name in ("out_channels", "spatial_channels")}},
        **derived,
    )
    return Patched(backbone=network, patch=patch) if patch > 1 else network


def build_dit(settings: ModelSettings, channels: int, size: Sequence[int], **widths: Any) -> nn.Module:
    """A diffusion transformer."""
    attention = choose(ATTENTION, settings.attention, "kind of attention")
    depth = settings.layers or depth_for(settings.width)
    return DiT.for_data(
        channels,
        size,
        width=settings.width,
        depth=depth,
        patch=settings.patch,
        attention=attention if settings.heads is None else type(attention)(heads=settings.heads),
        registers=settings.registers,
        bottleneck=settings.bottleneck,
        value_residual=settings.value_residual,
        route=Route.through(depth, settings.route) if settings.route else None,
        dropout=settings.dropout,
        **widths,
    )


BACKBONES = {
    "unet": Backbone(
        build_unet, frozenset({"multipliers", "depth", "attention_levels", "blocks", "attention", "patch", "dropout"})
    ),
    "edm2": Backbone(build_edm2, frozenset({"multipliers", "depth", "attention_levels", "patch", "dropout"})),
    "dit": Backbone(
        build_dit,
        frozenset(
            {"layers", "heads", "registers", "bottleneck", "value_residual", "route", "attention", "patch", "dropout"}
        ),
    ),
}


def build_backbone(
    settings: ModelSettings,
    spec: DataSpec,
    *,
    condition_width: int,
    spatial_channels: int = 0,
    tokens: ConditionTokens | None = None,
) -> nn.Module:
    """The network that the settings describe."""
    kind = choose(BACKBONES, settings.backbone, "backbone")
    kind.check(settings)
    outputs = spec.channels * (2 if choose(VARIANCES, settings.variance, "kind of variance") else 1)
    frequencies = level_frequencies(Categorical.for_data(spec).levels, spec.sigma_data) if settings.fourier else ()
    backbone = kind.build(
        settings,
        spec.channels * (1 + 2 * len(frequencies)),
        spec.size,
        out_channels=outputs,
        condition_width=condition_width,
        augment_width=len(LABELS) if spec.augment else 0,
        spatial_channels=spatial_channels,
        **({} if tokens is None else {"tokens": tokens}),
    )
    return FourierFeatures(backbone=backbone, frequencies=frequencies) if frequencies else backbone


def build_model(
    settings: ModelSettings,
    spec: DataSpec,
    *,
    condition_width: int | None = None,
    coupling: str = "independent",
    paired: tuple[Pair | None, float | None] = (None, None),
    reader: TextEncoder | None = None,
    frozen: bool = False,
) -> Model:
    """A fresh model for these data.

    Args:
        paired: how the picture to start from is made, and the most noise on it (the pair's own when None).
        reader: what reads the texts of a model of texts, which then knows no classes.
        frozen: whether the reader stays as it is.
    """
    pair = paired[0]
    if reader is not None:
        return _of_texts(settings, spec, reader, coupling=coupling, frozen=frozen, paired=paired)
    conditional = settings.conditional and bool(spec.classes)
    noise = _noise(*paired)
    width = (condition_width or 2 * settings.width) if conditional or noise else 0
    if pair is not None:
        pair.check(spec.shape)
    spatial = 0 if pair is None else pair.channels(spec.shape)
    backbone = build_backbone(settings, spec, condition_width=width, spatial_channels=spatial)
    denoiser = build_denoiser(settings, spec, backbone, coupling)
    dropout = settings.condition_dropout
    labels = ClassLabels(classes=spec.classes, width=width, dropout=dropout) if conditional else None
    if pair is None:
        return Model(denoiser, labels)
    return Model(
        denoiser, PairConditioner(pair=pair, shape=spec.shape, labels=labels, width=width, noise=noise, dropout=dropout)
    )


def _of_texts(
    settings: ModelSettings,
    spec: DataSpec,
    reader: TextEncoder,
    *,
    coupling: str,
    frozen: bool,
    paired: tuple[Pair | None, float | None],
) -> Model:
    """A fresh model that is asked with texts, and may start from a picture too."""
    pair, width = paired[0], 2 * settings.width
    dropout = settings.condition_dropout
    if pair is not None:
        pair.check(spec.shape)
    spatial = 0 if pair is None else pair.channels(spec.shape)
    tokens = CrossTokens({TOKENS: reader.width})
    backbone = build_backbone(settings, spec, condition_width=width, spatial_channels=spatial, tokens=tokens)
    conditioner: Conditioner = TextConditioner(encoder=reader, width=width, dropout=dropout, frozen=frozen)
    if pair is not None:
        conditioner = PairConditioner(
            pair=pair, shape=spec.shape, labels=conditioner, width=width, noise=_noise(*paired), dropout=dropout
        )
    return Model(build_denoiser(settings, spec, backbone, coupling), conditioner)


def _noise(pair: Pair | None, given: float | None) -> float:
    """The most noise on the picture to start from."""
    if pair is None:
        return 0.0
    return pair.usual_noise if given is None else given


def build_denoiser(settings: ModelSettings, spec: DataSpec, backbone: nn.Module, coupling: str) -> Denoiser:
    """The denoiser around a network, as the settings say."""
    return Denoiser(
        backbone,
        build_schedule(settings, spec),
        choose(parameterizations(spec.sigma_data), settings.parameterization, "parameterization"),
        sigma_data=spec.sigma_data,
        independent_noise=choose(COUPLINGS, coupling, "coupling").independent,
        learned_variance=choose(VARIANCES, settings.variance, "kind of variance"),
    )


def check(config: TrainConfig) -> None:
    """Refuse names that do not exist before anything slow begins."""
    build_schedule(config.model)
    build_pair(config.data)
    choose(BACKBONES, config.model.backbone, "backbone").check(config.model)
    choose(parameterizations(0.5), config.model.parameterization, "parameterization")
    choose(weightings(0.5), config.objective.weighting, "weighting")
    choose(TIMES, config.objective.times, "density of times")
    choose(DISTANCES, config.objective.distance, "distance")
    choose(COUPLINGS, config.objective.coupling, "coupling")
    choose(LOSSES, config.objective.loss, "loss")
    learned = choose(VARIANCES, config.model.variance, "kind of variance")
    if learned != (config.objective.loss == "hybrid"):
        raise ValueError(
            "a learned variance and the loss hybrid go together; got "
            f"variance = {config.model.variance} and loss = {config.objective.loss}"
        )
    if config.model.schedule == LEARNED and config.objective.loss != "variational":
        raise ValueError("a learned schedule is trained by the bound: set loss = variational")
    choose(BLOCKS, config.model.blocks, "kind of block")
    choose(ATTENTION, config.model.attention, "kind of attention")
