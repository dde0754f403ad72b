"""The rules of the documentation's text that no linter checks: the length of its lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/**/*.md")
MAX_LENGTH: Final = 100
FENCE: Final = "```"
TABLE_QUOTE_OR_IMAGE: Final = ("|", ">", "![", "[![", "<img")


def pages() -> list[str]:
    return sorted({str(path.relative_to(ROOT)) for each in PAGES for path in ROOT.glob(each)})


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Return a page's lines of prose with their numbers: all but code, tables, quotes and images."""
    is_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith(FENCE):
            is_code = not is_code
        elif not is_code and not line.lstrip().startswith(TABLE_QUOTE_OR_IMAGE):
            yield number, line


@pytest.mark.parametrize("page", pages())
def test_lines_of_prose_are_short(page: str) -> None:
    lines = prose((ROOT / page).read_text(encoding="utf-8"))
    assert [f"{page}:{number}" for number, line in lines if len(line) > MAX_LENGTH] == []


def test_every_place_of_pages_is_found() -> None:
    folders = {Path(page).parts[0] for page in pages()}
    assert folders >= {"README.md", "docs", "benchmarks", "examples"}


def test_code_tables_quotes_and_images_may_be_long() -> None:
    wide = "x" * 101
    text = f"{wide}\n| {wide}\n> {wide}\n![{wide}\n  ```sh\n{wide}\n  ```\n- {wide}\n"
    assert list(prose(text)) == [(1, wide), (8, f"- {wide}")]
