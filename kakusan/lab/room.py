"""One set, one schedule, one denoiser: every run and figure of the lab, made when first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kakusan.data.toys import Toy
from kakusan.denoiser import BaseDenoiser, Denoiser
from kakusan.grids import Grid, karras, uniform
from kakusan.lab.exact import Exact, exact_denoiser
from kakusan.lab.fields import View
from kakusan.lab.paths import Paths, SolverError, even_times, exact_flow, follow, solver_errors, start
from kakusan.lab.words import ENGLISH, Words, figure_words
from kakusan.levels import tabulate
from kakusan.samplers import DDPM, SAMPLERS, Sampler
from kakusan.schedules import NoiseSchedule, Rectified, VariancePreserving

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

COMPARED = ("ddim", "heun", "dpmpp-2m", "dpmpp-3m")
"""Samplers whose error is drawn."""
ANCESTRAL_STEPS = 200


@dataclass(frozen=True)
class Lab:
    """Everything that can be drawn of a set.

    Args:
        name: of the set, for titles.
        toy: the set.
        schedule: the path.
        sampler_name: of the sampler, for titles.
        sampler: whose trajectories are drawn.
        num_steps: of the sampler.
        grid: the spacing of its steps.
        points: number of points that are followed.
        seed: of the first point's noise; the others follow.
        trained: a denoiser in place of the exact one.
        words: the language; pictures speak English where no font of the system has it.
    """

    name: str
    toy: Toy
    schedule: NoiseSchedule
    sampler_name: str = "dpmpp-2m"
    sampler: Sampler = SAMPLERS["dpmpp-2m"]
    num_steps: int = 20
    grid: Grid = karras
    points: int = 128
    seed: int = 0
    trained: Denoiser | None = None
    words: Words = ENGLISH

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.points < 2:
            raise ValueError(f"the lab needs at least 1 step and 2 points, got {self.num_steps} and {self.points}")

    @cached_property
    def view(self) -> View:
        """The window of all figures."""
        return View.of(self.toy)

    @cached_property
    def exact(self) -> Exact:
        """The exact denoiser on the schedule."""
        return exact_denoiser(self.toy, self.schedule)

    @property
    def denoiser(self) -> BaseDenoiser:
        """What is sampled and whose fields are drawn."""
        return self.exact if self.trained is None else self.trained

    @cached_property
    def flow(self) -> Paths:
        """The exact flow from the noise that the sampler starts from."""
        first = float(self.grid(self.schedule, self.num_steps)[0])
        times = even_times(self.schedule, first=first)
        return exact_flow(self.exact, times, start(self.denoiser, self.points, seed=self.seed, t=first))

    @cached_property
    def trajectories(self) -> tuple[Paths, ...]:
        """The sampler with a quarter of the steps, with all of them, and the exact flow, from the same noise."""
        counts = sorted({max(1, self.num_steps // 4), self.num_steps})
        runs = [
            follow(self.denoiser, self.sampler, self.grid(self.schedule, count), count=self.points, seed=self.seed,
                   label=self.sampler_name)
            for count in counts
        ]  # fmt: skip
        return (*runs, self.flow)

    @cached_property
    def families(self) -> tuple[tuple[Paths, Exact], ...]:
        """DDPM, the flow on the same path, and rectified flow, from the same noise, each with its exact denoiser."""
        curved = VariancePreserving() if isinstance(self.schedule, Rectified) else self.schedule
        straight = Rectified()
        on_curve, on_line = exact_denoiser(self.toy, curved), exact_denoiser(self.toy, straight)
        pairs = []
        steps = uniform(curved, ANCESTRAL_STEPS)
        ancestral = follow(
            self._on(curved, on_curve), DDPM(), steps, count=self.points, seed=self.seed, label="DDPM, ancestral"
        )
        pairs.append((ancestral, on_curve))
        for label, exact in (("probability flow ODE", on_curve), ("rectified flow", on_line)):
            denoiser, times = self._on(exact.schedule, exact), even_times(exact.schedule)
            x_start = start(denoiser, self.points, seed=self.seed, t=float(times[0]))
            pairs.append((exact_flow(denoiser, times, x_start, label=label), exact))
        return tuple(pairs)

    @cached_property
    def errors(self) -> list[SolverError]:
        """Error over steps of usual samplers and of this one, with the exact denoiser."""
        chosen = {name: SAMPLERS[name] for name in COMPARED}
        counted = self.sampler.network_calls(tabulate(self.schedule, self.grid(self.schedule, 2))) is not None
        if counted and not self.sampler.stochastic and self.sampler not in chosen.values():
            chosen[self.sampler_name] = self.sampler
        return solver_errors(self.exact, chosen, seed=self.seed)

    def figures(self) -> Mapping[str, Figure]:
        """Every still figure, by the name of its file."""
        from kakusan.lab import figures as draw

        view, name, exact, words = self.view, self.title, self.exact, figure_words(self.words)
        return {
            "density": draw.draw_density(exact, view, name=self.name, words=words),
            "score": draw.draw_field(self.denoiser, exact, view, kind="score", name=name, words=words),
            "velocity": draw.draw_field(self.denoiser, exact, view, kind="velocity", name=name, words=words),
            "trajectories": draw.draw_trajectories(
                self.trajectories, exact, view, flow=self.flow, name=name, words=words
            ),
            "families": draw.draw_families([run for run, _ in self.families], exact, view, name=name, words=words),
            "errors": draw.draw_errors(self.errors, name=self.name, words=words),
        }

    def animations(self, *, frames: int = 48) -> Mapping[str, list[Image.Image]]:
        """Every moving figure, by the name of its file."""
        from kakusan.lab.frames import forward_frames, sampling_frames

        runs, densities = [run for run, _ in self.families], [exact for _, exact in self.families]
        words = figure_words(self.words)
        return {
            "forward": forward_frames(
                self.exact, self.view, denoiser=self.denoiser, count=frames, name=self.title, words=words
            ),
            "sampling": sampling_frames(runs, densities, self.view, count=frames, name=self.title, words=words),
        }

    @property
    def title(self) -> str:
        """The set's name in pictures, and that a network stands in for the exact denoiser where it does."""
        return self.name if self.trained is None else figure_words(self.words).learnt.format(name=self.name)

    def _on(self, schedule: NoiseSchedule, exact: Exact) -> BaseDenoiser:
        return exact if self.trained is None else self.trained.with_schedule(schedule)
