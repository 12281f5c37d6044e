"""The page of a trained CLIP: what it finds, how pictures and texts lie, and a map to walk in."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kakusan.metrics.clip import ClipFigures
from kakusan.metrics.retrieval import Rate
from kakusan.report import style
from kakusan.report.curves import Chart, loss_curve
from kakusan.report.embedding_map import EmbeddingMap, sprite
from kakusan.report.page import Page

_BINS = 60
_SIDE = 48


class ClipPage(Page):
    """A report page that may also hold one map to walk in."""

    def map(self, shown: EmbeddingMap, caption: str = "") -> ClipPage:
        """Pictures at their places. A wheel, two fingers or + and - enlarge, dragging moves, pointing shows captions.

        Nothing is fetched: pictures and captions lie in the page.
        """
        sheet, columns = sprite(shown.thumbnails, _SIDE)
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG", optimize=True)
        source = base64.b64encode(buffer.getvalue()).decode("ascii")
        self._data(
            "map-data",
            {
                "places": np.round(shown.places, 5).tolist(),
                "texts": None if shown.texts is None else np.round(shown.texts, 5).tolist(),
                "captions": list(shown.captions),
                "groups": list(shown.groups),
                "colours": shown.colours(),
                "columns": columns,
                "side": _SIDE,
            },
        )
        self._style(_STYLE)
        self._script(_SCRIPT)
        self._add(
            "map",
            f'<figure><canvas id="map" tabindex="0" role="img" aria-label="map of pictures"></canvas>'
            f'<img id="map-sprite" alt="" hidden src="data:image/png;base64,{source}">'
            f'<p id="map-words" aria-live="polite">Point at a picture to read its caption.</p></figure>',
        )
        if caption:
            self.text(caption)
        return self


def similarity_curves(figures: ClipFigures) -> Chart:
    """How alike pictures are to their own texts and to others: densities of cosines."""
    drawn = style.figure(640, 300)
    axes = drawn.add_subplot()
    axes.set_xlabel("cosine of picture and text")
    axes.set_ylabel("density")
    style.style_axes(axes)
    both = np.concatenate([figures.own.numpy(), figures.others.numpy()])
    edges = np.linspace(float(both.min()), float(both.max()) + 1e-9, _BINS + 1)
    for values, colour, name in (
        (figures.others.numpy(), style.MUTED, "other texts"),
        (figures.own.numpy(), style.VERMILION, "own text"),
    ):
        heights, _ = np.histogram(values, edges, density=True)
        axes.stairs(heights, edges, color=colour, fill=True, alpha=0.25)
        axes.stairs(heights, edges, color=colour, linewidth=1.6, label=name)
    axes.legend(frameon=False, fontsize=9.5, labelcolor=style.INK, loc="upper left")
    style.use_bundled_font(drawn)
    drawn.tight_layout(pad=0.6)
    return Chart(drawn)


def clip_page(
    *,
    title: str,
    facts: Mapping[str, object],
    history: Sequence[Mapping[str, Any]],
    figures: Mapping[str, ClipFigures],
    measured_on: str,
    shown: EmbeddingMap,
    notes: Sequence[str] = (),
) -> ClipPage:
    """The whole page.

    Args:
        facts: short ones, for the head.
        history: records of the losses by step.
        figures: by the name of the texts they were measured with ("first caption", "en", "ja").
        measured_on: "held-out" or "training".
        shown: the map.
        notes: what was decided or could not be done.
    """
    page = ClipPage(title, f"pictures and texts in one space, measured on {measured_on} pictures")
    page.facts(facts)
    if notes:
        page.text(*notes)
    page.section("The map")
    page.map(
        shown,
        "Every picture stands where its vector lies, flattened by t-SNE: neighbours are alike, far distances mean "
        "little. The frame's colour is the class, where there are classes. The line from a picture under the pointer "
        "goes to its caption's own vector, carried over by the difference of the means.",
    )
    page.section("Retrieval")
    page.table(retrieval_rows(figures), caption=f"share of {measured_on} queries answered right, +- standard error")
    page.text(
        "R@k: a right answer stands among the k most similar. Pictures look for their text among all different texts, "
        "texts for a picture of theirs among all pictures. A text that several pictures share counts once."
    )
    shots = [f.zero_shot for f in figures.values() if f.zero_shot is not None]
    if shots:
        page.section("Classes by their names alone")
        page.table(
            [
                {
                    "accuracy": _shown(shot.rate),
                    "chance": f"{shot.rate.chance:.3f}",
                    "pictures": shot.rate.count,
                    "templates": ", ".join(repr(template) for template in shot.templates),
                }
                for shot in shots
            ]
        )
        page.text(
            "The text of a class is the mean over the templates. Templates with words that training never showed are "
            "left out."
        )
    page.section("Pictures and texts live apart")
    rows = [
        {
            "texts": name,
            "carried over by": bridge,
            "distance of means": f"{gap.distance:.3f}",
            "cosine, own": f"{gap.cosine:.3f}",
            "cosine, others": f"{gap.others:.3f}",
        }
        for name, f in figures.items()
        for bridge, gap in f.gaps.items()
    ]
    page.table(rows, caption="the modality gap, and what is left of it when texts are carried over")
    for name, f in figures.items():
        page.figure(similarity_curves(f), f"{name}: cosines of pictures with their own text and with others")
    page.section("Training")
    page.figure(loss_curve(history), "contrastive loss by step")
    return page


def retrieval_rows(figures: Mapping[str, ClipFigures]) -> list[dict[str, object]]:
    """Rows of a table, one for each set of texts and each way."""
    rows = []
    for name, f in figures.items():
        ways = (("picture to text", f.retrieval.to_text), ("text to picture", f.retrieval.to_picture))
        for way, rates in ways:
            row: dict[str, object] = {"texts": name, "way": way}
            row |= {f"R@{k}": _shown(rate) for k, rate in rates.items()}
            row |= {"chance": " / ".join(f"{rate.chance:.3f}" for rate in rates.values())}
            row |= {"queries": next(iter(rates.values())).count}
            rows.append(row)
    return rows


def _shown(rate: Rate) -> str:
    return f"{rate.value:.3f} +- {rate.error:.3f}"


_STYLE = """
.map figure{margin:16px 0}
#map-sprite{display:none}
#map{display:block;width:100%;height:min(70vh,680px);border:1px solid var(--rule);border-radius:6px;touch-action:none;
cursor:grab;background:var(--card)}
#map:focus-visible{outline:2px solid var(--indigo);outline-offset:3px}
#map-words{min-height:3.4em;margin-top:12px;max-width:none}
"""

_SCRIPT = """
(() => {
  const data = JSON.parse(document.getElementById('map-data').textContent);
  const canvas = document.getElementById('map'), words = document.getElementById('map-words');
  const sprite = document.getElementById('map-sprite'), pen = canvas.getContext('2d');
  let zoom = 1, x0 = 0, y0 = 0, at = -1;
  const fingers = new Map();
  const extent = () => canvas.getBoundingClientRect();
  const place = (p) => {
    const box = extent(), side = 40;
    return [(p[0] * (box.width - 2 * side) + side) * zoom + x0, (p[1] * (box.height - 2 * side) + side) * zoom + y0];
  };
  const size = () => Math.min(data.side * 2, 22 * Math.pow(zoom, 0.6));
  function draw() {
    const box = extent(), dense = window.devicePixelRatio || 1;
    canvas.width = Math.round(box.width * dense); canvas.height = Math.round(box.height * dense);
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    const s = size();
    pen.imageSmoothingEnabled = s < data.side;
    const order = data.places.map((_, i) => i).filter((i) => i !== at);
    if (at >= 0) order.push(at);
    if (at >= 0 && data.texts) {
      const a = place(data.places[at]), b = place(data.texts[at]);
      pen.strokeStyle = pen.fillStyle = data.colours[at]; pen.lineWidth = 2;
      pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0], b[1]); pen.stroke();
      pen.beginPath(); pen.arc(b[0], b[1], 5, 0, 7); pen.fill();
    }
    for (const i of order) {
      const [x, y] = place(data.places[i]), w = i === at ? s * 1.7 : s, edge = i === at ? 3 : 1.5;
      pen.fillStyle = data.colours[i];
      pen.fillRect(x - w / 2 - edge, y - w / 2 - edge, w + 2 * edge, w + 2 * edge);
      pen.drawImage(sprite, (i % data.columns) * data.side, Math.floor(i / data.columns) * data.side, data.side,
        data.side, x - w / 2, y - w / 2, w, w);
    }
  }
  function enlarge(factor, x, y) {
    const next = Math.min(40, Math.max(1, zoom * factor)), f = next / zoom;
    x0 = x - (x - x0) * f; y0 = y - (y - y0) * f; zoom = next;
    if (zoom === 1) { x0 = 0; y0 = 0; }
    draw();
  }
  function look(x, y) {
    let best = -1, least = Math.pow(size(), 2);
    data.places.forEach((p, i) => {
      const [a, b] = place(p), d = (a - x) * (a - x) + (b - y) * (b - y);
      if (d < least) { least = d; best = i; }
    });
    if (best === at) return;
    at = best;
    words.textContent = at < 0 ? 'Point at a picture to read its caption.'
      : (data.groups.length ? data.groups[at] + ': ' : '') + data.captions[at];
    draw();
  }
  const here = (e) => { const box = extent(); return [e.clientX - box.left, e.clientY - box.top]; };
  canvas.addEventListener('wheel', (e) => {
    e.preventDefault(); const [x, y] = here(e); enlarge(Math.exp(-e.deltaY / 400), x, y);
  }, { passive: false });
  canvas.addEventListener('pointerdown', (e) => {
    canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, here(e)); look(...here(e));
  });
  canvas.addEventListener('pointermove', (e) => {
    const now = here(e), before = fingers.get(e.pointerId);
    if (!before) { look(...now); return; }
    if (fingers.size === 2) {
      const other = [...fingers.entries()].find(([id]) => id !== e.pointerId)[1];
      const gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      fingers.set(e.pointerId, now);
      enlarge(gap(now) / Math.max(1, gap(before)), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      return;
    }
    x0 += now[0] - before[0]; y0 += now[1] - before[1];
    fingers.set(e.pointerId, now); draw();
  });
  for (const name of ['pointerup', 'pointercancel']) {
    canvas.addEventListener(name, (e) => fingers.delete(e.pointerId));
  }
  canvas.addEventListener('dblclick', (e) => enlarge(2, ...here(e)));
  canvas.addEventListener('keydown', (e) => {
    const box = extent(), step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (e.key === '+' || e.key === '=') enlarge(1.4, box.width / 2, box.height / 2);
    else if (e.key === '-') enlarge(1 / 1.4, box.width / 2, box.height / 2);
    else if (step[e.key]) { x0 += step[e.key][0]; y0 += step[e.key][1]; draw(); }
    else return;
    e.preventDefault();
  });
  window.addEventListener('resize', draw);
  if (sprite.complete) draw(); else sprite.addEventListener('load', draw);
})();
"""
