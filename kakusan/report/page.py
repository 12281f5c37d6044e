"""A report in one HTML file: nothing fetched, readable on a desktop, on a phone and on paper.

A page runs no script but those that a subclass puts in (`Page._script`), each allowed by its hash in the page's policy.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import json
import numbers
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from kakusan.files import write_text
from kakusan.report import style
from kakusan.report.curves import Chart
from kakusan.report.pictures import show
from kakusan.report.svg import inline_svg

_Media: TypeAlias = tuple[str, bytes, tuple[int, int] | None]
_LARGEST_FILE = 64 << 20
_POLICY = (
    "default-src 'none';{scripts} img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)


class Page:
    """A page built from top to bottom; every method but the last returns the page, so calls may be chained.

    Every string is shown as it is: none is ever read as markup. Numbers are shown by `style.number`.
    """

    def __init__(self, title: str, subtitle: str = "", *, language: str = "en") -> None:
        self._title = title
        self._subtitle = subtitle
        self._language = language
        self._blocks: list[tuple[str, str]] = []
        self._figures = 0
        self._styles: list[str] = []
        self._values: dict[str, str] = {}
        self._scripts: list[str] = []

    def section(self, title: str) -> Page:
        """A heading."""
        return self._add("section", f"<h2>{_escape(title)}</h2>")

    def text(self, *paragraphs: str) -> Page:
        """Paragraphs of plain text."""
        return self._add("text", "\n".join(f"<p>{_escape(p)}</p>" for p in paragraphs))

    def code(self, text: str) -> Page:
        """Commands or code, to be copied."""
        return self._add("code", f"<pre><code>{_escape(text)}</code></pre>")

    def facts(self, facts: Mapping[str, object]) -> Page:
        """Short facts side by side, each a name and a value."""
        items = "".join(
            f"<div><dt>{_escape(name)}</dt><dd>{_escape(style.number(value))}</dd></div>"
            for name, value in facts.items()
        )
        return self._add("facts", f"<dl>{items}</dl>")

    def picture(self, image: Image.Image | str | Path, caption: str = "") -> Page:
        """A picture: a Pillow image, or the path of a PNG, GIF, WebP, JPEG or MP4 file (told by its content).

        Raises ValueError for a file of another kind or over 64 MiB.
        """
        if isinstance(image, Image.Image):
            buffer = io.BytesIO()
            # Modes that browsers cannot show are brought to RGB; transparency is left to the page.
            shown = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else show(image)
            shown.save(buffer, format="PNG", optimize=True)
            media: _Media = "image/png", buffer.getvalue(), image.size
        else:
            media = _read_media(Path(image))
        kind, content, size = media
        source = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
        if kind.startswith("video/"):
            markup = f'<video controls loop muted playsinline aria-label="{_escape(caption)}" src="{source}"></video>'
        else:
            extent = f'width="{size[0]}" height="{size[1]}" ' if size else ""
            markup = f'<img {extent}alt="{_escape(caption)}" src="{source}">'
        return self._add("picture", f"<figure>{markup}{_caption(caption)}</figure>")

    def figure(self, svg: str | Chart, caption: str = "") -> Page:
        """A drawing, as a `Chart` or as SVG text; drawings in a row stand side by side where there is room.

        Raises ValueError for SVG that holds anything but drawing (see `inline_svg`).
        """
        self._figures += 1
        markup, width = inline_svg(svg.svg() if isinstance(svg, Chart) else svg, f"f{self._figures}-")
        box = f'<div class="drawing" role="img" aria-label="{_escape(caption)}" style="max-width:{width * 1.25:.0f}px">'
        return self._add("figure", f"<figure>{box}{markup}</div>{_caption(caption)}</figure>")

    def table(
        self,
        rows: Sequence[Mapping[str, object] | Sequence[object]],
        *,
        columns: Sequence[str] | None = None,
        caption: str = "",
    ) -> Page:
        """A table. `rows`: mappings (a missing entry stays empty), or lists as long as `columns`."""
        if columns is None:
            columns = list(dict.fromkeys(key for row in rows if isinstance(row, Mapping) for key in row))
        body = []
        for index, row in enumerate(rows):
            if isinstance(row, str) or (not isinstance(row, Mapping) and columns and len(row) != len(columns)):
                raise ValueError(f"row {index} of a table does not have {len(columns)} entries, as its columns do")
            cells = [row.get(c, "") for c in columns] if isinstance(row, Mapping) else row
            body.append(f"<tr>{''.join(_cell(value) for value in cells)}</tr>")
        numeric = [_is_number(_first(rows, i, c)) for i, c in enumerate(columns)]
        heads = (
            f'<th scope="col"{_NUMERIC if n else ""}>{_escape(c)}</th>' for c, n in zip(columns, numeric, strict=True)
        )
        head = f"<thead><tr>{''.join(heads)}</tr></thead>" if columns else ""
        title = f"<caption>{_escape(caption)}</caption>" if caption else ""
        # A focusable box, so that a wide table can be scrolled from the keyboard.
        table = f"<table>{title}{head}<tbody>{''.join(body)}</tbody></table>"
        return self._add("table", f'<div class="scroll" tabindex="0">{table}</div>')

    def html(self) -> str:
        """The whole page."""
        parts = []
        for kind, blocks in itertools.groupby(self._blocks, key=lambda block: block[0]):
            inside = "\n".join(markup for _, markup in blocks)
            parts.append(f'<div class="{kind}">\n{inside}\n</div>')
        subtitle = f'<p class="subtitle">{_escape(self._subtitle)}</p>' if self._subtitle else ""
        return _TEMPLATE.format(
            language=_escape(self._language),
            policy=_POLICY.format(scripts=_allowed(self._scripts)),
            title=_escape(self._title),
            subtitle=subtitle,
            css=_css() + "".join(self._styles),
            body="\n".join(parts),
            scripts="".join(
                [
                    *(f'<script type="application/json" id="{n}">{v}</script>\n' for n, v in self._values.items()),
                    *(f"<script>{text}</script>\n" for text in self._scripts),
                ]
            ),
        )

    def write(self, path: str | Path) -> None:
        """Writes the page, whole or not at all."""
        write_text(path, self.html())

    def _add(self, kind: str, markup: str) -> Page:
        self._blocks.append((kind, markup))
        return self

    # What follows is for pages that move. Markup, style and script are the program's own text, never a user's.

    def _style(self, css: str) -> None:
        """More rules after the page's own.

        Raises ValueError for text that would end the style element.
        """
        self._styles.append(_inside(css, "style"))

    def _data(self, name: str, value: object) -> None:
        """JSON values for a script, in an element of the id `name`.

        Raises ValueError for a name that is taken or is no plain id, and for numbers that JSON does not have.
        """
        if name in self._values or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise ValueError(f"data in a page need an id of their own, of a-z, 0-9 and -, got {name!r}")
        # In a script element only "</" or "<!--" could end the data early.
        self._values[name] = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")

    def _script(self, text: str) -> None:
        """A script that runs when all else is there; the page's policy names it by its hash, and no other runs.

        Raises ValueError for text that would end the script element.
        """
        self._scripts.append(_inside(text, "script"))


_NUMERIC = ' class="number"'


def _inside(text: str, element: str) -> str:
    """Text for a raw element, unchanged."""
    if f"</{element}" in text.lower() or "<!--" in text:
        raise ValueError(f"this text would end its <{element}> element early; write < as an escape there")
    return text


def _allowed(scripts: Sequence[str]) -> str:
    """The part of the policy that lets these scripts run, and only these."""
    digests = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in scripts]
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f" script-src {sources};" if digests else ""


def _escape(text: object) -> str:
    """Text for any place in the page, attributes included. Characters that HTML forbids are left out."""
    shown = "".join(c for c in str(text) if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
    return html.escape(shown, quote=True)


def _caption(caption: str) -> str:
    return f"<figcaption>{_escape(caption)}</figcaption>" if caption else ""


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _cell(value: object) -> str:
    return f"<td{_NUMERIC if _is_number(value) else ''}>{_escape(style.number(value))}</td>"


def _first(rows: Sequence[Mapping[str, object] | Sequence[object]], index: int, column: str) -> Any:
    if not rows:
        return None
    row = rows[0]
    return row.get(column) if isinstance(row, Mapping) else row[index]


def _read_media(path: Path) -> _Media:
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path} is over {_LARGEST_FILE >> 20} MiB, too large for a page; give a smaller picture")
    content = path.read_bytes()
    if content[4:8] == b"ftyp":
        return "video/mp4", content, None
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "GIF", "WEBP", "JPEG")) as image:
            return Image.MIME[image.format or "PNG"], content, image.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a PNG, GIF, WebP, JPEG or MP4 file; a page shows no other kind") from error


def _css() -> str:
    light = "".join(f"--{role}:{colour};" for colour, role in style.ROLES.items())
    dark = "".join(f"--{role}:{colour};" for role, colour in style.DARK.items())
    return _CSS.replace("LIGHT", light).replace("DARK", dark).replace("FONTS", style.FONT_STACK)


_CSS = """
:root{color-scheme:light dark;LIGHT--card:#fff;--font:FONTS;
--mono:ui-monospace,"SF Mono","Cascadia Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media (prefers-color-scheme:dark){:root{DARK--card:#1e2127}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 var(--font);overflow-wrap:anywhere}
main{max-width:1040px;margin:0 auto;padding:clamp(24px,6vw,64px) clamp(16px,4vw,40px)}
h1{font-size:clamp(26px,5vw,38px);line-height:1.2;margin:0;letter-spacing:-.015em;font-weight:650}
.subtitle{color:var(--muted);font-size:18px;margin:.5em 0 0;max-width:44em;text-wrap:balance}
header{padding-bottom:28px;border-bottom:1px solid var(--rule);margin-bottom:28px}
h2{font-size:21px;line-height:1.3;margin:52px 0 14px;font-weight:650;letter-spacing:-.005em}
p{margin:0 0 .8em;max-width:44em;white-space:pre-line}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:18px 24px;margin:20px 0}
dt{color:var(--muted);font-size:13px;line-height:1.4}
dd{margin:2px 0 0;font-size:17px;line-height:1.4;font-variant-numeric:tabular-nums}
figure{margin:20px 0;min-width:0}
figcaption{color:var(--muted);font-size:14px;line-height:1.5;margin-top:10px;max-width:52em;white-space:pre-line}
img,video{display:block;max-width:100%;height:auto;border-radius:6px}
.picture figure+figure{margin-top:36px}
.figure{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:8px 36px}
.drawing svg{display:block;width:100%;height:auto;overflow:visible}
.drawing svg *{stroke-linejoin:round;stroke-linecap:butt}
.drawing text{font-family:var(--font)}
.scroll{overflow-x:auto;margin:20px 0}
.scroll:focus-visible{outline:2px solid var(--indigo);outline-offset:4px}
table{border-collapse:collapse;font-size:15px;line-height:1.45;overflow-wrap:normal}
caption{text-align:left;color:var(--muted);font-size:14px;padding-bottom:8px}
th,td{text-align:left;padding:7px 28px 7px 0;border-bottom:1px solid var(--rule);vertical-align:top}
th:last-child,td:last-child{padding-right:0}
th{color:var(--muted);font-weight:500;font-size:13px;white-space:nowrap}
td{max-width:32em;overflow-wrap:break-word}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
pre{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:14px 16px;overflow-x:auto;
font:14px/1.55 var(--mono);overflow-wrap:normal;margin:16px 0}
code{font-family:inherit}
footer{color:var(--muted);font-size:13px;margin-top:64px;border-top:1px solid var(--rule);padding-top:16px}
@media print{main{max-width:none;padding:0}figure,tr,.facts div{break-inside:avoid}}
"""

_TEMPLATE = """<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>{subtitle}</header>
{body}
<footer>kakusan</footer>
</main>
{scripts}</body>
</html>
"""
