"""The README's Python lines run, and both languages show the same ones."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def blocks(name: str) -> list[str]:
    """The Python blocks of a page, without their comments."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    return [re.sub(r" *#.*", "", block) for block in found]


def test_both_languages_show_the_same_lines() -> None:
    assert blocks("README.md") == blocks("README.ja.md")
    assert len(blocks("README.md")) == 2


def test_the_deeper_lines_run() -> None:
    source = blocks("README.md")[1]
    assert "grids.karras(denoiser.schedule, 20)" in source
    names: dict[str, object] = {}
    exec(
        source.replace("schedule, 20)", "schedule, 2)").replace("UNet(channels=3)", "UNet(channels=3, width=16)"), names
    )
    x, loss = names["x"], names["loss"]
    assert tuple(x.shape) == (4, 3, 32, 32)  # type: ignore[attr-defined]
    assert tuple(loss.shape) == (4,)  # type: ignore[attr-defined]
    assert bool(x.isfinite().all())  # type: ignore[attr-defined]
