"""What the tasks that edit pictures share: a model set up for it, methods by name, and their results as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from kakusan import runtime
from kakusan.encoders.vectors import GivenVectors, ImageVectors
from kakusan.grids import GRIDS
from kakusan.inversion import DDIMInversion, FixedPoint, Noising, Side
from kakusan.levels import tabulate
from kakusan.pipeline import load
from kakusan.request import SampleRequest
from kakusan.samplers import DDIM, Sampler
from kakusan.specs import suggestion
from kakusan.tasks.own_pictures import read_own
from kakusan.tasks.picture_files import ANIMATIONS, check_out, one_file

if TYPE_CHECKING:
    from kakusan.report.pictures import Picture

M = TypeVar("M")


class Bench:
    """A model set up for editing, on one grid of levels.

    Args:
        run: a run, checkpoint or model folder.
        weights: an EMA profile of it, or raw.
        device: auto, cpu, cuda.
        options: of every request: guidance (of the target side), grid, num_steps, sampler, batch.
        source_scale: guidance scale of the side that pictures are taken to noise on.
    """

    def __init__(
        self,
        run: Path,
        *,
        weights: str | None = None,
        device: str = "auto",
        source_scale: float = 1.0,
        **options: Any,
    ) -> None:
        where = runtime.pick_device(device)
        runtime.tune(device=where)
        self.pipeline = load(run, weights=weights, device=where)
        self.options, self.source_scale = options, source_scale
        request = self.request(None, [0], guided=False)
        schedule = self.pipeline.denoiser.schedule
        self.levels = tabulate(schedule, GRIDS[request.grid](schedule, request.num_steps))

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    def request(self, label: str | int | None, seeds: Sequence[int], *, guided: bool) -> SampleRequest:
        """A checked request; without a label there is nothing to be guided to."""
        own = ("grid", "num_steps", "sampler", "batch")
        options = self.options if guided else {name: self.options[name] for name in own if name in self.options}
        if not guided and label is not None:
            options = {**options, "guidance_scale": self.source_scale}
        labels = None if label is None else [label] * len(seeds)
        return self.pipeline.request(labels=labels, seeds=list(seeds), **options)

    def side(self, label: str | int | None, *, guided: bool) -> Side:
        """One side of an edit, for one sample or for any number that share the label."""
        return Side(*self.pipeline.guided(self.request(label, [0], guided=guided)))

    @property
    def by_vectors(self) -> bool:
        """Whether the model draws pictures of CLIP vectors, so that a picture's own can be its condition."""
        return isinstance(self.pipeline.model.conditioner, ImageVectors)

    def vector(self, x0: Tensor) -> Tensor:
        """The CLIP vectors (B, D) of pictures (B, C, *size), for a model of such vectors."""
        conditioner = self.pipeline.model.conditioner
        if not isinstance(conditioner, ImageVectors):
            raise ValueError(
                "this model does not draw pictures of CLIP vectors; train one with kakusan train --clip-vectors FOLDER"
            )
        return conditioner.embed(x0)

    def of_vector(self, vector: Tensor, seeds: Sequence[int], *, guided: bool) -> SampleRequest:
        """As `request`, for a picture with this CLIP vector (1, D)."""
        plain = self.request(None, seeds, guided=False)
        wanted = self.options if guided else {"guidance_scale": self.source_scale}
        given = GivenVectors(vector.cpu(), source={"kind": "picture"})
        own = {"grid": plain.grid, "num_steps": plain.num_steps, "sampler": plain.sampler, "batch": plain.batch}
        return self.pipeline.request(seeds=list(seeds), given=given, **{**own, **wanted})

    def under(self, vector: Tensor, *, guided: bool) -> Side:
        """One side of an edit, of pictures with this CLIP vector (1, D)."""
        return Side(*self.pipeline.guided(self.of_vector(vector, [0], guided=guided)))

    def picture(self, path: Path, fit: str | None) -> Tensor:
        """(1, C, *size) on the model's device."""
        return read_own(path, self.pipeline.data, fit=fit).to(self.pipeline.device)

    def pictures(self, x: Tensor) -> list[Any]:
        """As PIL images."""
        return self.pipeline.data.to_pil(x.float().cpu())


def method_of(name: str, table: Mapping[str, M], sampler: Any = None) -> M:
    """An entry of a table of methods; the sampler goes to the one that has a choice.

    Raises:
        ValueError: no such method, with the nearest name.
    """
    if name not in table:
        raise ValueError(f"no method {name!r}{suggestion(name, list(table))}; there are {', '.join(table)}")
    found = table[name]
    if isinstance(found, Noising) and sampler is not None:
        return replace(found, sampler=sampler)
    return found


def sampler_of(method: object) -> Sampler:
    """What a method steps with: an inversion takes DDIM's steps."""
    return method.sampler if isinstance(method, Noising) else DDIM()


def check_places(out: Path, video: Path | None) -> None:
    """Refuse places that cannot be written to, before anything slow begins."""
    check_out(out)
    if video is not None and video.suffix.lower() not in ANIMATIONS:
        raise ValueError(f"--video ends in {', '.join(ANIMATIONS)}; got {video}")


def doubts(method: object, scale: Any, codes_residual: float = 0.0) -> Iterator[str]:
    """What a method could not do, or cannot be trusted with."""
    if isinstance(method, FixedPoint):
        if codes_residual > 30.0 * method.tolerance:
            yield (
                f"warning: the fixed point was not reached everywhere (relative residual {codes_residual:.1g}); use "
                "more --steps, less guidance, or an exact method (edict, bdia, edit-friendly)"
            )
    elif isinstance(method, DDIMInversion) and scale not in (None, 0.0, 1.0):
        yield (
            f"warning: plain DDIM inversion under guidance (scale {scale:g}) does not lead back to the picture; use "
            "--method fixed-point, edict, bdia or edit-friendly, or guide only on the way back"
        )


def write_strip(
    rows: Sequence[Sequence[Picture]],
    labels: Sequence[str],
    out: Path,
    record: Mapping[str, Any],
    *,
    row_labels: Sequence[str] | None = None,
    video: Path | None = None,
    loop: bool = False,
    last_only: bool = False,
) -> Iterator[str]:
    """Rows of pictures, one column for each label: a sheet, or a folder of all pictures and the sheet; and a video.

    A single picture goes to a .png as it is, with no label. `loop` lets the video run back as well; `last_only` keeps
    all columns but the last for it.
    """
    from kakusan.report.animation import save_animation
    from kakusan.report.editing import frames, strip
    from kakusan.report.pictures import as_images
    from kakusan.report.png import save_png

    whole, all_labels = rows, labels
    if last_only:
        rows, labels = [row[-1:] for row in rows], labels[-1:]
    if one_file(out) and len(rows) == len(labels) == 1:
        save_png(as_images(rows[0])[0], out, record)
    elif one_file(out):
        save_png(strip(rows, labels, row_labels), out, record)
    else:
        for number, row in enumerate(rows):
            for place, picture in enumerate(as_images(row)):
                save_png(picture, out / f"{number:02d}-{place:03d}.png", {**record, "row": number, "place": place})
        save_png(strip(rows, labels, row_labels), out / "sheet.png", record)
    yield f"wrote {out}"
    if video is not None:
        shown = frames(whole, [label.replace("\n", " ") for label in all_labels])
        save_animation(shown + shown[-2:0:-1] if loop else shown, video, fps=6, hold=0.0 if loop else 1.0)
        yield f"wrote {video}"


def write_cells(cells: Sequence[Picture], title: str, out: Path, record: Mapping[str, Any]) -> Iterator[str]:
    """Pictures on a sheet that its title explains, or as files of a folder with that sheet."""
    from kakusan.report.grids import grid
    from kakusan.report.pictures import as_images
    from kakusan.report.png import save_png

    sheet = grid(cells, columns=min(len(cells), 5), title=title)
    if not one_file(out):
        for place, picture in enumerate(as_images(cells)):
            save_png(picture, out / f"{place:03d}.png", {**record, "place": place})
    save_png(sheet, out if one_file(out) else out / "sheet.png", record)
    yield f"wrote {out}"
