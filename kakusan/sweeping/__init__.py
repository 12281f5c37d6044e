"""Sweeps: the same pictures under every value of one or two settings, with all that can be shared drawn once."""

from kakusan.sweeping.axes import AXES, Axis, Subject
from kakusan.sweeping.cells import Batch, Cell, batches, every_cell, run
from kakusan.sweeping.facts import measured
from kakusan.sweeping.reading import read_axes
from kakusan.sweeping.setups import ModelChoice, Setup
from kakusan.sweeping.shared import sharing
from kakusan.sweeping.store import SweepFolder
from kakusan.sweeping.ways import FromNoise, Way

__all__ = [
    "AXES",
    "Axis",
    "Batch",
    "Cell",
    "FromNoise",
    "ModelChoice",
    "Setup",
    "Subject",
    "SweepFolder",
    "Way",
    "batches",
    "every_cell",
    "measured",
    "read_axes",
    "run",
    "sharing",
]
