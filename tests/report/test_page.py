import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kakusan.report.animation import save_gif
from kakusan.report.curves import held_out_curve, loss_curve
from kakusan.report.page import Page
from kakusan.report.svg import inline_svg

HOSTILE = "</title></style><script>alert('x')</script><img src=x onerror=\"alert(1)\">{0}{css}&amp;\x00 桜🌸"
VOID = {"meta", "img", "br"}
PICTURE = Image.new("RGB", (4, 3), (1, 2, 3))


class Reader(HTMLParser):
    """Reads a page as a browser would: elements with attributes, and the text outside <style>."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def page_with(text):
    chart = held_out_curve([1, 2], None, [2.0, 1.0], title=text.replace("\0", ""))
    page = Page(text, text, language=text).section(text).text(text, text).code(text).facts({text: text, "n": 1234})
    page.picture(PICTURE, text).figure(chart, text).figure(chart, text)
    page.table([{text: text, "b": 0.12345}, {"b": 2}], caption=text).table([[text, 1]], columns=[text, "c"])
    return page.html()


def shape(page):
    return [(tag, sorted(attributes)) for tag, attributes in Reader(page).elements]


def test_a_hostile_string_in_every_field_changes_no_element():
    assert shape(page_with(HOSTILE)) == shape(page_with("plain"))
    texts = Reader(page_with(HOSTILE)).texts
    assert sum(HOSTILE.replace("\0", "") in t for t in texts) >= 15


@settings(deadline=None, max_examples=40)
@given(st.text(st.characters(), max_size=30))
def test_no_text_is_markup(text):
    def page(value):
        return (
            Page(value, value + "x").text(value).facts({value: value}).picture(PICTURE, value + "x").code(value).html()
        )

    assert shape(page(text)) == shape(page("plain"))
    page(text).encode("utf-8")


def test_a_page_needs_nothing_from_outside_and_runs_nothing():
    page = page_with(HOSTILE)
    reader = Reader(page)
    assert "script" not in {tag for tag, _ in reader.elements}
    for _, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    policy = next(a["content"] for t, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_drawings_do_not_share_ids():
    reader = Reader(page_with("a"))
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 20
    used = {a["href"][1:] for _, a in reader.elements if "href" in a}
    used |= {i for _, a in reader.elements for v in a.values() for i in re.findall(r"url\(#([^)]+)\)", v or "")}
    assert used
    assert used <= set(ids)


def test_facts_tables_and_numbers_are_shown():
    page = Page("t").facts({"count": 12345, "flag": False, "none": None}).table([{"a": 0.123456, "b": "x"}, {"b": "y"}])
    texts = Reader(page.html()).texts
    for text in ("12,345", "no", "–", "0.1235", "x", "y"):
        assert text in texts


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="row 1 of a table does not have 2 entries"):
        Page("t").table([[1, 2], [3]], columns=["a", "b"])
    with pytest.raises(ValueError, match="row 0"):
        Page("t").table(["ab"], columns=["a", "b"])
    assert "<tbody></tbody>" in Page("t").table([]).html()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_of_picture_is_embedded_as_png(mode):
    import base64
    import io

    page = Page("t").picture(Image.new(mode, (4, 3)), "c").html()
    (attributes,) = (a for t, a in Reader(page).elements if t == "img")
    assert (attributes["width"], attributes["height"], attributes["alt"]) == ("4", "3", "c")
    kind, content = attributes["src"].split(",", 1)
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (4, 3)


def test_files_are_told_by_content(tmp_path):
    random = np.random.default_rng(0)
    save_gif([Image.fromarray(random.integers(0, 9, (4, 5), np.uint8)) for _ in range(2)], tmp_path / "a.png", 5)
    assert "data:image/gif;base64," in Page("t").picture(tmp_path / "a.png").html()
    (tmp_path / "b.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    assert "<video" in Page("t").picture(str(tmp_path / "b.mp4"), "c").html()
    (tmp_path / "c.png").write_text("<svg onload=alert(1)>")
    with pytest.raises(ValueError, match="is not a PNG, GIF, WebP, JPEG or MP4"):
        Page("t").picture(tmp_path / "c.png")


def test_pages_are_written_whole(tmp_path):
    page = Page("桜", "\ud800 lone").text("a")
    page.write(tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == page.html()
    assert len(list((tmp_path / "new").iterdir())) == 1


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" {}>{}</svg>'


@pytest.mark.parametrize(
    ("attributes", "inside"),
    [
        ("", "<script>alert(1)</script>"),
        ("onload='alert(1)'", ""),
        ("", "<path onclick='a()' d='M0 0'/>"),
        ("", "<foreignObject><p xmlns='http://www.w3.org/1999/xhtml'>x</p></foreignObject>"),
        ("", "<a href='https://example.org'><text>x</text></a>"),
        ("", "<image href='file:///etc/passwd'/>"),
        ("", "<use xlink:href='other.svg#a'/>"),
        ("", "<use href='data:image/svg+xml,x'/>"),
        ("", "<set attributeName='href' to='javascript:alert(1)'/>"),
        ("", "<animate attributeName='x'/>"),
        ("", "<rect style='fill:url(https://example.org/a)'/>"),
        ("", "<rect style='fill:u\\72l(//example.org)'/>"),
        ("", "<rect fill='URL( //example.org )'/>"),
        ("", "<rect style='background:image-set(\"a\")'/>"),
        ("", "<h:iframe xmlns:h='http://www.w3.org/1999/xhtml' src='x'/>"),
        ("", "<unclosed"),
    ],
)
def test_svg_that_is_more_than_a_drawing_is_refused(attributes, inside):
    with pytest.raises(ValueError, match="SVG"):
        inline_svg(SVG.format(attributes, inside), "a-")


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + SVG.format("", "<text>&b;</text>"),
        '<!DOCTYPE svg PUBLIC "a" "b"><!DOCTYPE svg SYSTEM "x">' + SVG.format("", ""),
        "<p>hello</p>",
        "",
        "<svg/>",
    ],
)
def test_what_is_no_plain_svg_is_refused(text):
    with pytest.raises(ValueError, match=r"(?i)svg"):
        inline_svg(text, "a-")


def test_styles_of_a_drawing_do_not_reach_the_page():
    markup, width = inline_svg(SVG.format("width='90pt'", "<style>*{display:none}</style><text>a &lt; b</text>"), "a-")
    assert "display" not in markup
    assert "a &lt; b" in markup
    assert width == pytest.approx(120)
    assert "<style" not in inline_svg(loss_curve([{"step": 1, "loss": 1.0}]).svg(), "a-")[0]


def test_colours_follow_the_page():
    markup, _ = inline_svg(held_out_curve([1, 2], None, [2.0, 1.0]).svg(), "a-")
    assert "var(--vermilion)" in markup
    assert not re.findall(r"#(?:[0-9a-f]{6})\b", markup), "a colour outside the style is drawn"


class Moving(Page):
    """A page with everything a subclass may put in."""

    def __init__(self):
        super().__init__("moving")
        self._style(".mine{color:red}")
        self._data("numbers", {"text": "</script><!-- <b>", "list": [1.5, None]})
        self._script("console.log(1 < 2);")
        self._script("let second = '&amp;';")


def test_a_subclass_brings_style_data_and_scripts_that_the_policy_names():
    reader = Reader(Moving().html())
    scripts = [a for tag, a in reader.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "numbers"}, {}, {}]
    data, *texts = re.findall(r"<script[^>]*>(.*?)</script>", Moving().html(), re.DOTALL)
    assert json.loads(data) == {"text": "</script><!-- <b>", "list": [1.5, None]}
    assert texts == ["console.log(1 < 2);", "let second = '&amp;';"]
    policy = next(a["content"] for tag, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    allowed = re.search(r"script-src ([^;]*);", policy).group(1).split()
    assert allowed == [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts
    ]
    assert policy.startswith("default-src 'none';")
    assert Moving().html().index(".mine{color:red}") < Moving().html().index("</style>")
    assert "script-src" not in Page("still").html()


@pytest.mark.parametrize("text", ["a</script>", "a</SCRIPT >", "<!-- a"])
def test_a_script_that_would_end_early_is_refused(text):
    with pytest.raises(ValueError, match="early"):
        Page("t")._script(text)
    with pytest.raises(ValueError, match="early"):
        Page("t")._style("a</style>")


@pytest.mark.parametrize("name", ["numbers", "", "A", 'x" onload="y'])
def test_data_need_an_id_of_their_own(name):
    with pytest.raises(ValueError, match="id of their own"):
        Moving()._data(name, 1)
    with pytest.raises(ValueError, match="Out of range"):
        Page("t")._data("x", float("nan"))
