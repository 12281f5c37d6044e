"""Every recipe trains, is saved, loaded and sampled; what it cannot be combined with is refused."""

from pathlib import Path

import pytest
import torch
from small_runs import draw_pictures, settings, start

import kakusan
from kakusan.config import TrainConfig, merge
from kakusan.learned_schedule import LearnedSchedule
from kakusan.recipes import RECIPES


def small(recipe: str, source: Path) -> TrainConfig:
    """A recipe on tiny pictures with a tiny network."""
    config = merge(
        TrainConfig(), {key: value for key, value in RECIPES[recipe]().items() if key in ("model", "objective")}
    )
    plain = settings(source)
    levels = {} if config.model.backbone == "dit" else {"depth": 1, "multipliers": (1, 2)}
    return merge(
        TrainConfig(),
        {
            "data": {"source": str(source), "held_out": 0.2},
            "model": {**vars(config.model), "width": 8, "patch": 1, **levels},
            "objective": vars(config.objective),
            "run": vars(plain.run) | {"steps": 4, "measurements": 1},
        },
    )


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_recipe_trains_and_samples(recipe: str, tmp_path: Path) -> None:
    source = draw_pictures(tmp_path / "pictures")
    run = start(small(recipe, source), tmp_path / "run")
    assert run.trainer.step == 4
    loaded = kakusan.load(tmp_path / "run")
    again = loaded.denoiser
    assert again.learned_variance == (recipe == "improved-ddpm")
    assert isinstance(again.schedule, LearnedSchedule) == (recipe == "vdm")
    with torch.no_grad():
        x0 = loaded.sample_tensor(num=2, num_steps=3, sampler="ddpm" if recipe == "improved-ddpm" else "dpmpp-2m")
    assert x0.shape == (2, 3, 8, 8)
    assert bool(x0.isfinite().all())


def test_a_learned_schedule_moves_and_is_saved(tmp_path: Path) -> None:
    source = draw_pictures(tmp_path / "pictures")
    start(small("vdm", source), tmp_path / "run")
    raw = kakusan.load(tmp_path / "run", weights="raw").denoiser.schedule
    assert isinstance(raw, LearnedSchedule)
    fresh = LearnedSchedule()
    assert float(raw.high.detach()) != float(fresh.high.detach())
    assert float(raw.rises.detach().abs().max()) > 0.0


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"model": {"variance": "learned"}}, "go together"),
        ({"objective": {"loss": "hybrid"}}, "go together"),
        ({"model": {"schedule": "learned"}}, "loss = variational"),
        ({"model": {"schedule": "learned", "shift": 2.0}, "objective": {"loss": "variational"}}, "shift at 1"),
        ({"model": {"schedule": "learnd"}}, "did you mean 'learned'"),
        ({"model": {"backbone": "dti"}}, "did you mean 'dit'"),
        ({"model": {"registers": 2}}, "backbone = unet has no registers"),
        ({"objective": {"coupling": "transprot"}}, "did you mean 'transport'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    sections: dict[str, dict[str, object]], reason: str, tmp_path: Path
) -> None:
    source = draw_pictures(tmp_path / "pictures")
    with pytest.raises(ValueError, match=reason):
        start(settings(source, **sections), tmp_path / "run")


def test_a_model_trained_with_transport_refuses_the_score_and_fresh_noise(tmp_path: Path) -> None:
    source = draw_pictures(tmp_path / "pictures")
    start(settings(source, objective={"coupling": "transport"}), tmp_path / "run")
    pipeline = kakusan.load(tmp_path / "run")
    with pytest.raises(ValueError, match="coupled pairs"):
        pipeline.sample_tensor(num=1, sampler="ddpm")
    with torch.no_grad(), pytest.raises(ValueError, match="coupled pairs"):
        _ = pipeline.denoiser(torch.zeros(1, 3, 8, 8), 0.5, pipeline.model.conditioner.null(1)).score
    assert bool(pipeline.sample_tensor(num=1, num_steps=2).isfinite().all())
