"""The theory pages: quoted code is in the source, both languages say the same, formulae render, small programs run."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
ENGLISH, JAPANESE = ROOT / "docs" / "theory", ROOT / "docs" / "ja" / "theory"
PAGES = sorted(ENGLISH.glob("*.md"))
BOTH = [*PAGES, *sorted(JAPANESE.glob("*.md"))]
FAMILIES = "gaussian markov-chain denoiser bound ddpm ddim score-sde vdm edm flow-matching likelihood samplers guidance"

QUOTE = re.compile(r"<!-- code: (\S+) -->\n```python\n(.*?)```", re.DOTALL)
TRY = re.compile(r"<!-- try -->\n```python\n(.*?)```\n```text\n(.*?)```", re.DOTALL)
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
DISPLAY = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")
# "eq. 6-7", "eq. 9, 11, 12", "式 6-7": the numbers behind the word.
EQUATION = re.compile(r"(?:\beqs?\. |式 )(\d+(?:(?:-|, |、)\d+(?!\.))*)")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
COMMAND = re.compile(r"\\([a-zA-Z]+|.)")
KNOWN = set(
    re.findall(
        r"\w+",
        "alpha sigma epsilon lambda mu tau beta eta rho delta Delta Sigma nu pi log exp sqrt frac sum prod left right "
        "int "
        "lVert rVert lvert rvert mid parallel sim cdot le ge lt gt to leftarrow hat tilde bar dot mathrm mathcal nabla "
        "partial infty qquad quad times approx det ldots min max sin cos",
    )
)


def prose(text: str) -> str:
    """The page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def name(page: Path) -> str:
    return f"{page.parent.parent.name}-{page.stem}"


def test_there_is_a_page_for_every_family_in_both_languages() -> None:
    wanted = ["README", *(f"{i:02d}-{family}" for i, family in enumerate(FAMILIES.split(), 1))]
    assert sorted(page.stem for page in PAGES) == sorted(wanted)
    assert [page.name for page in sorted(JAPANESE.glob("*"))] == [page.name for page in PAGES]


@pytest.mark.parametrize("page", BOTH, ids=name)
def test_links_and_pictures_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(FENCE.sub("", text)):
        assert "://" not in target, target
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", other.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in [slug(heading) for heading in headings], target
    for words, _ in PICTURE.findall(text):
        assert len(words) > 15, "a picture needs a description for those who cannot see it"
    twin = (JAPANESE if page.parent == ENGLISH else ENGLISH) / page.name
    assert any((page.parent / target).resolve() == twin for target in LINK.findall(text)), "no link to its twin"


def test_every_family_has_a_figure_a_quotation_and_something_to_try() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert any("theory-" in path for _, path in PICTURE.findall(text)), page.name
        if page.stem != "README":
            assert QUOTE.search(text), page.name
            assert len(TRY.findall(text)) == 1, page.name
            assert len(DISPLAY.findall(text)) > 2, page.name


def stripped(line: str) -> str:
    """A line of code without indentation and trailing comment."""
    return re.sub(r"\s+# .*$", "", line).strip()


def is_quoted(lines: list[str], source: list[str], reach: int = 45) -> bool:
    """Whether the lines occur in this order, all within `reach` lines."""
    for start, first in enumerate(source):
        if first != lines[0]:
            continue
        here = iter(source[start : start + reach])
        if all(line in here for line in lines):
            return True
    return False


@pytest.mark.parametrize("page", BOTH, ids=name)
def test_quoted_code_is_in_the_source(page: Path) -> None:
    for path, code in QUOTE.findall(page.read_text(encoding="utf-8")):
        source = [stripped(line) for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]
        lines = [stripped(line) for line in code.splitlines() if line.strip()]
        assert lines
        assert is_quoted(lines, source), f"{path} no longer says:\n{code}"


def test_a_changed_quotation_would_be_noticed() -> None:
    source = ["a = 1", "b = a + 1", "c = 3"]
    assert is_quoted(["a = 1", "c = 3"], source)
    assert not is_quoted(["c = 3", "a = 1"], source)
    assert not is_quoted(["b = a - 1"], source)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_both_languages_show_the_same(page: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (page, JAPANESE / page.name)]
    for what, find in (
        ("quotations", QUOTE.findall),
        ("programs", TRY.findall),
        ("formulae", DISPLAY.findall),
        ("figures", lambda text: [Path(path).name for _, path in PICTURE.findall(text)]),
        ("papers", lambda text: Counter(ARXIV.findall(text))),
        ("equation numbers", lambda text: Counter(re.findall(r"\d+", " ".join(EQUATION.findall(text))))),
        ("sections", lambda text: len(re.findall(r"^##+ ", FENCE.sub("", text), re.MULTILINE))),
        ("table rows", lambda text: len(re.findall(r"^\|", text, re.MULTILINE))),
    ):
        first, second = (find(text) for text in texts)
        assert first == second, what


@pytest.mark.parametrize("page", BOTH, ids=name)
def test_every_equation_number_names_its_paper(page: Path) -> None:
    body = FENCE.sub("", page.read_text(encoding="utf-8"))
    for paragraph in re.split(r"\n\s*\n|\n(?=\|)", body):
        if EQUATION.search(paragraph):
            assert ARXIV.search(paragraph), paragraph


@pytest.mark.parametrize("page", BOTH, ids=name)
def test_formulae_survive_githubs_markdown(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if "$$" in line:
            assert line == "$$", line
            # A display stands between blank lines, and holds one line that Markdown cannot take for something else.
            opens = lines[:i].count("$$") % 2 == 0
            outside, inside = (lines[i - 1], lines[i + 1]) if opens else (lines[i + 1], lines[i - 1])
            assert not outside.strip(), line
            assert inside.strip(), line
            assert not re.match(r"\s*([-+*]\s|[=>#|]|\d+[.)]\s)", inside), inside
    displays = DISPLAY.findall(text)
    assert all("\n" not in formula for formula in displays)
    flat = DISPLAY.sub("", text)
    inline = re.findall(r"\$([^$]+)\$", flat)
    assert flat.count("$") == 2 * len(inline), "an odd dollar"
    for formula in inline:
        # Around a dollar GitHub wants space or ASCII punctuation, and an underscore after a bracket starts emphasis.
        assert not re.search(r"[})\]]_|\n", formula), formula
        assert formula == formula.strip(), formula
    for before, after in re.findall(r"(^|.)\$[^$]+\$(.|$)", flat, re.MULTILINE):
        assert before in ("", " ", "(", "[", "*"), before + "$"
        assert after in ("", " ", ".", ",", ";", ":", ")", "]", "?", "!", "*", "-"), "$" + after
    for formula in (*displays, *inline):
        assert not re.search(r"[<>*|#&%~`]|\\[^a-zA-Z]", formula), formula
        assert set(COMMAND.findall(formula)) - {" "} <= KNOWN, formula
        assert formula.count("{") == formula.count("}"), formula
        assert formula.count(r"\left") - formula.count(r"\leftarrow") == formula.count(r"\right"), formula


@pytest.mark.parametrize("page", PAGES[:-1], ids=name)
def test_the_small_program_prints_what_the_page_says(page: Path) -> None:
    ((source, said),) = TRY.findall(page.read_text(encoding="utf-8"))
    printed = io.StringIO()
    before = time.process_time()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, page.name, "exec"), {})
    assert time.process_time() - before < 3.0
    found, expected = printed.getvalue().split(), said.split()
    assert re.sub(NUMBER, "#", " ".join(found)) == re.sub(NUMBER, "#", " ".join(expected))
    # Printed to a few digits, of which the last may differ between machines.
    for one, other in zip(NUMBER.findall(" ".join(found)), NUMBER.findall(" ".join(expected)), strict=True):
        assert float(one) == pytest.approx(float(other), rel=0.02, abs=0.011)


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    # A script finds the modules beside it because its folder comes first; here that is done by hand.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ENGLISH)
        return importlib.import_module("figures")


def test_every_figure_is_drawn_by_the_script_and_shown(figures: ModuleType) -> None:
    shown = {Path(path).name for page in PAGES for _, path in PICTURE.findall(page.read_text(encoding="utf-8"))}
    drawn = {f"theory-{figure}.png" for figure in figures.FIGURES}
    assert shown == drawn == {path.name for path in figures.PICTURES.glob("theory-*.png")}


def test_the_script_draws(figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "PICTURES", tmp_path)
    figures.main(["gaussian"])
    assert (tmp_path / "theory-gaussian.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="no figure is called"):
        figures.main(["sunset"])
