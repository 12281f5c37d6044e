"""Editing given pictures: inversions, exact or not, and ways that need none."""

from kakusan.inversion.base import Code, Edit, Edited, Inversion, RoundTrip, Side, edited, kept_steps
from kakusan.inversion.drawn import EditFriendly, FlowEdit, Noising, noised
from kakusan.inversion.exact import BDIA, EDICT
from kakusan.inversion.files import read_code, write_code
from kakusan.inversion.implicit import DDIMInversion, FixedPoint
from kakusan.inversion.mixing import between_codes, between_conditions, slerp, towards_noise
from kakusan.inversion.paths import between_levels, between_noises, variations

# Ways to noise and back.
INVERSIONS: dict[str, Inversion] = {
    "ddim": DDIMInversion(),
    "fixed-point": FixedPoint(),
    "edit-friendly": EditFriendly(),
    "edict": EDICT(),
    "bdia": BDIA(),
}

EDITS: dict[str, Edit] = {**INVERSIONS, "noise": Noising(), "flow-edit": FlowEdit()}

__all__ = [
    "BDIA",
    "EDICT",
    "EDITS",
    "INVERSIONS",
    "Code",
    "DDIMInversion",
    "Edit",
    "EditFriendly",
    "Edited",
    "FixedPoint",
    "FlowEdit",
    "Inversion",
    "Noising",
    "RoundTrip",
    "Side",
    "between_codes",
    "between_conditions",
    "between_levels",
    "between_noises",
    "edited",
    "kept_steps",
    "noised",
    "read_code",
    "slerp",
    "towards_noise",
    "variations",
    "write_code",
]
