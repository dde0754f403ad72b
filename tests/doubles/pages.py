"""The commands in the documentation's pages, for the tests that check them and the tests that run them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = ("README.md", "CONTRIBUTING.md", "docs/**/*.md")
BLOCK: Final = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<mark>[^\n]*?) -->\n(?P=indent))?```(?P<language>\w*)\n"
    r"(?P<text>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
AZURE_ONLY: Final = "azure only"
NOT_RUN: Final = "not run: "


@dataclass(frozen=True, slots=True)
class ShellBlock:
    """A block of shell commands in a page.

    Attributes:
        page: The page's path in the repository.
        mark: The comment above: `azure only`, or `not run:` and the reason; empty if a test runs the block.
        text: The commands.
    """

    page: str
    mark: str
    text: str

    @property
    def is_run(self) -> bool:
        """Whether the end-to-end tests run this block."""
        return not (
            self.mark == AZURE_ONLY or (self.mark.startswith(NOT_RUN) and len(self.mark) > len(NOT_RUN))
        )


def pages() -> list[str]:
    """Return the paths of the pages that have commands."""
    return sorted({path.relative_to(ROOT).as_posix() for each in PAGES for path in ROOT.glob(each)})


def shell_blocks(page: str) -> Iterator[ShellBlock]:
    """Return the blocks of shell commands in a page."""
    for found in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        if found["language"] in {"sh", "bash", "console"}:
            yield ShellBlock(page, found["mark"] or "", textwrap.dedent(found["text"]))
