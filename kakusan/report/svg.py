"""Makes an SVG safe and fit to stand inside a page.

Inline SVG is live markup, so only drawing survives: every element and attribute is on a list, references lead to the
same drawing only, and ids get a prefix so that several drawings do not take each other's parts.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from kakusan.report import style

_ELEMENTS = frozenset(
    {"svg", "g", "defs", "title", "desc", "path", "line", "polyline", "polygon", "rect", "circle", "ellipse", "text"}
    | {"tspan", "use", "symbol", "clipPath", "linearGradient", "radialGradient", "stop", "pattern", "marker"}
)
# What matplotlib writes beside the drawing; a page has its own rule instead of the style sheet.
_DROPPED = frozenset({"metadata", "style"})
_ATTRIBUTES = frozenset(
    {
        "id",
        "d",
        "x",
        "y",
        "x1",
        "y1",
        "x2",
        "y2",
        "cx",
        "cy",
        "r",
        "rx",
        "ry",
        "dx",
        "dy",
        "fx",
        "fy",
        "width",
        "height",
    }
    | {"viewBox", "version", "transform", "points", "style", "fill", "stroke", "opacity", "color", "offset", "role"}
    | {"href", "rotate", "textLength", "lengthAdjust", "orient", "refX", "refY", "preserveAspectRatio"}
    | {"gradientUnits", "gradientTransform", "patternUnits", "patternTransform", "markerWidth", "markerHeight"}
    | {"clipPathUnits", "visibility", "display", "overflow", "space"}
)
_FAMILIES = ("fill-", "stroke-", "font-", "text-", "clip-", "stop-", "marker-", "dominant-", "alignment-", "paint-")
_REFERENCE = re.compile(r"url\(\s*(['\"]?)#([\w.:-]+)\1\s*\)")
_COLOUR = re.compile("|".join(style.ROLES), re.IGNORECASE)
_FONT_FAMILY = re.compile(r"font-family:[^;]*;?\s*")
_SHORT_FONT = re.compile(r"(font:\s*[^;'\"]*?px)\s+[^;]*")
_LENGTH = re.compile(r"\s*([0-9.]+)\s*(pt|px)?\s*$")


def inline_svg(text: str, prefix: str) -> tuple[str, float]:
    """`text` as markup that may stand inside an HTML page, and its natural width in CSS pixels.

    The style's colours become variables that follow the page's light or dark setting, and text takes the page's font.
    `prefix`: put before every id.

    Raises ValueError for what is not well-formed SVG and for anything but drawing: scripts, handlers, links, embedded
    pages or pictures, references to other files, document type declarations.
    """
    text = re.sub(r"<!DOCTYPE\s[^>\[]*>", "", text, count=1)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("this SVG declares entities or a document type of its own; only plain SVG is shown")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"this is not well-formed SVG: {error}") from error
    if _local(root.tag) != "svg":
        raise ValueError(f"this is <{_local(root.tag)}>, not an <svg>")
    width = _natural_width(root)
    clean = _clean(root, prefix)
    assert clean is not None
    for name in ("width", "height", "version"):
        clean.attrib.pop(name, None)
    return ElementTree.tostring(clean, encoding="unicode", short_empty_elements=False), width


def _clean(element: ElementTree.Element, prefix: str) -> ElementTree.Element | None:
    name = _local(element.tag)
    if name in _DROPPED:
        return None
    if name not in _ELEMENTS:
        raise ValueError(f"this SVG has a <{name}> element; only shapes, text and gradients are shown")
    made = ElementTree.Element(name)
    made.text, made.tail = element.text, element.tail
    for key, value in element.attrib.items():
        made.set(*_attribute(_local(key), value, prefix))
    for child in element:
        inner = _clean(child, prefix)
        if inner is not None:
            made.append(inner)
    return made


def _attribute(name: str, value: str, prefix: str) -> tuple[str, str]:
    if name not in _ATTRIBUTES and not name.startswith(_FAMILIES):
        raise ValueError(f"this SVG has a {name!r} attribute, which is not part of a drawing")
    if name == "id":
        return name, prefix + value
    if name == "href":
        if not value.startswith("#"):
            raise ValueError(f"this SVG refers to {value[:80]!r}; only parts of the same drawing may be used")
        return name, f"#{prefix}{value[1:]}"
    value = _REFERENCE.sub(rf"url(#{prefix}\2)", value)
    rest = value.replace(f"url(#{prefix}", "").lower()
    if any(sign in rest for sign in ("url(", "image(", "image-set(", "\\", "@", "expression", "javascript:", "/*")):
        raise ValueError(f"this SVG's {name!r} attribute holds {value[:80]!r}, which reaches outside the drawing")
    if name == "style":
        value = _SHORT_FONT.sub(r"\1 var(--font)", _FONT_FAMILY.sub("", value))
    return name, _COLOUR.sub(lambda found: f"var(--{style.ROLES[found.group().lower()]})", value)


def _natural_width(root: ElementTree.Element) -> float:
    found = _LENGTH.match(root.get("width", ""))
    if found:
        return float(found.group(1)) * (96 / 72 if found.group(2) == "pt" else 1)
    box = root.get("viewBox", "").split()
    try:
        return float(box[2])
    except (IndexError, ValueError):
        raise ValueError("this SVG has neither a width nor a viewBox; its size is not known") from None


def _local(tag: str) -> str:
    if not isinstance(tag, str):
        raise ValueError("this SVG has a processing instruction; only plain SVG is shown")
    return tag.rpartition("}")[2]
