"""The page of a lab: what it shows and what it says."""

from __future__ import annotations

from kakusan.lab.fields import View
from kakusan.lab.figures import draw_errors
from kakusan.lab.page import LabPage, Panel, shown_in, stage_data
from kakusan.lab.paths import Paths
from kakusan.lab.room import Lab
from kakusan.report.curves import Chart

WHAT_IS_SEEN = (
    "The picture shows the density of noised data, exact at every t. The score is the slope of its logarithm; the "
    "velocity is the flow that carries density from one t to the next. Longer arrows are stronger (root scale).",
    "Below, all points begin at the same noise and keep the colour of the direction they began in. A flow is one curve "
    "for each start: its colours stay in order. DDPM adds fresh noise at every step: its colours end mixed, and the "
    "points are as many everywhere as the data are.",
    "The flow on this path and rectified flow end at the same points: they are one flow in other coordinates. The "
    "rectified path joins noise and data by straight lines, but these lines cross, and the flow follows their mean, so "
    "its curves are not straight before reflow. The number over each picture says how much longer the way is than its "
    "distance.",
)


def lab_page(lab: Lab, command: str) -> LabPage:
    """The page of a lab. `command`: what makes it again."""
    *runs, flow = lab.trajectories
    ours = [Panel(run, lab.exact, f"{run.label}, {run.steps} steps", _ends(run, flow)) for run in runs]
    ours.append(Panel(flow, lab.exact, note="where these starts truly lead"))
    kinds = [Panel(run, exact, note=f"path length / distance = {run.detour:.2f}") for run, exact in lab.families]
    data = stage_data(lab.exact, lab.denoiser, [*ours, *kinds], view=View(lab.view.half, 72))
    by = "exact, in closed form" if lab.trained is None else "a network, trained on the spot"
    made = LabPage(
        f"{lab.name}: from data to noise and back", "Every picture follows one clock. Move it, or press play."
    )
    made.facts({"set": lab.name, "schedule": type(lab.schedule).__name__, "denoiser": by, "points": lab.points})
    rows = {f"Sampling: {lab.sampler_name} beside the exact flow": ours, "Three ways from one noise": kinds}
    note = shown_in(lab.exact)
    texts = [*WHAT_IS_SEEN, note] if note else WHAT_IS_SEEN
    made.stage(data, rows, forward="The density pₜ, and the field that undoes the noise", texts=texts)
    made.section("Error over steps").figure(
        Chart(draw_errors(lab.errors, name=lab.name, title="")).svg(),
        "Distance to the exact flow between log-SNR -4 and 4, on steps even in log-SNR, with the exact denoiser.",
    )
    made.table([{"sampler": e.label, "steps": e.steps[-1], "network calls": e.calls[-1], "error": e.errors[-1],
                 "measured order": round(e.order, 2)} for e in lab.errors])  # fmt: skip
    made.section("Make it again").code(command)
    return made


def _ends(run: Paths, flow: Paths) -> str:
    if run.stochastic:
        return "fresh noise at every step"
    return f"ends {run.distance(flow):.2g} from the exact flow"
