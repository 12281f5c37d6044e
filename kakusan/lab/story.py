"""The page of a lab: what it shows and what it says."""

from __future__ import annotations

from kakusan.lab.fields import View
from kakusan.lab.figures import draw_errors
from kakusan.lab.page import LabPage, Panel, shown_in, stage_data
from kakusan.lab.paths import Paths
from kakusan.lab.room import Lab
from kakusan.lab.words import Words
from kakusan.report.curves import Chart


def lab_page(lab: Lab, command: str) -> LabPage:
    """The page of a lab, in its language. `command`: what makes it again."""
    words, says = lab.words, lab.words.page
    *runs, flow = lab.trajectories
    ours = [Panel(run, lab.exact, _heading(run, words), _ends(run, flow, words)) for run in runs]
    ours.append(Panel(flow, lab.exact, note=says["truth"]))
    kinds = [Panel(run, exact, note=words.detour.format(value=run.detour)) for run, exact in lab.families]
    data = stage_data(lab.exact, lab.denoiser, [*ours, *kinds], view=View(lab.view.half, 72))
    by = says["exact"] if lab.trained is None else says["network"]
    made = LabPage(says["title"].format(name=lab.name), says["subtitle"], language=words.language)
    made.facts(
        {
            says["set"]: lab.name,
            says["schedule"]: type(lab.schedule).__name__,
            says["denoiser"]: by,
            says["points"]: lab.points,
        }
    )
    rows = {says["sampling"].format(name=lab.sampler_name): ours, says["families"]: kinds}
    note = shown_in(lab.exact, words)
    texts = [*words.seen, note] if note else words.seen
    made.stage(data, rows, forward=says["forward"], texts=texts, words=words)
    made.section(says["errors"]).figure(
        Chart(draw_errors(lab.errors, name=lab.name, title="", words=words)).svg(), says["errors_caption"]
    )
    made.table(
        [
            {
                says["sampler"]: e.label,
                says["steps"]: e.steps[-1],
                says["calls"]: e.calls[-1],
                says["error"]: e.errors[-1],
                says["order"]: round(e.order, 2),
            }
            for e in lab.errors
        ]
    )
    made.section(says["again"]).code(command)
    return made


def _heading(run: Paths, words: Words) -> str:
    # Sampled runs have their steps; here the plural stands for one, too.
    return f"{words.label(run.label)}, {words.steps.format(n=run.steps)}"


def _ends(run: Paths, flow: Paths, words: Words) -> str:
    if run.stochastic:
        return words.page["fresh"]
    return words.page["ends"].format(value=run.distance(flow))
