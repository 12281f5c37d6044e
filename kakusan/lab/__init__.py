"""The lab: two-dimensional sets whose every density, field and path is known, drawn so that one sees why it works."""

from kakusan.lab.exact import Boxes, exact_denoiser
from kakusan.lab.fields import FIELDS, View, density, level_times, score, stages, velocity
from kakusan.lab.figures import draw_density, draw_errors, draw_families, draw_field, draw_trajectories, save
from kakusan.lab.frames import forward_frames, sampling_frames
from kakusan.lab.page import LabPage, Panel, stage_data
from kakusan.lab.paths import Paths, SolverError, even_times, exact_flow, follow, solver_errors, start
from kakusan.lab.room import Lab
from kakusan.lab.story import lab_page
from kakusan.lab.words import ENGLISH, JAPANESE, LANGUAGES, Words, figure_words

__all__ = [
    "ENGLISH",
    "FIELDS",
    "JAPANESE",
    "LANGUAGES",
    "Boxes",
    "Lab",
    "LabPage",
    "Panel",
    "Paths",
    "SolverError",
    "View",
    "Words",
    "density",
    "draw_density",
    "draw_errors",
    "draw_families",
    "draw_field",
    "draw_trajectories",
    "even_times",
    "exact_denoiser",
    "exact_flow",
    "figure_words",
    "follow",
    "forward_frames",
    "lab_page",
    "level_times",
    "sampling_frames",
    "save",
    "score",
    "solver_errors",
    "stage_data",
    "stages",
    "start",
    "velocity",
]
