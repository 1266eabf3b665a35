"""The worked examples of docs/extending.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from warm import Warm

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"


def sections() -> dict[str, str]:
    """The python blocks of each section, one after another."""
    parts = re.split(r"^## (.+)$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    blocks = {
        title: "\n".join(re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {title: code for title, code in blocks.items() if code}


@pytest.mark.parametrize("title", ["A model family", "A quantizer", "A coder", "A corpus", "A mixture expert"])
def test_the_guide_has_a_section_about(title: str) -> None:
    assert title in sections()


SLOW = {"A mixture expert"}  # compiles the whole mixture anew


@pytest.mark.parametrize("title", [pytest.param(t, marks=[pytest.mark.slow] if t in SLOW else []) for t in sections()])
def test_the_example_runs_as_it_stands(title: str, warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(sections()[title], encoding="utf-8")
    done = warm.python("example.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
