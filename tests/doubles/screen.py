"""What a person sees on a terminal, from the bytes that were written to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(
    r"\x1b\[(?P<parameters>[0-9;?]*)(?P<command>[A-Za-z])|(?P<character>[^\x1b])", re.DOTALL
)


@dataclass
class Screen:
    """The lines of a terminal that is tall enough for all of them.

    An unknown control sequence is an error: what it does to the screen would be missing here.

    Attributes:
        columns: How wide it is.
        shows_cursor: Whether the cursor is visible.
    """

    columns: int
    shows_cursor: bool = True
    _lines: list[list[str]] = field(default_factory=lambda: [[]])
    _continued: set[int] = field(default_factory=set)
    _row: int = 0
    _column: int = 0

    @property
    def lines(self) -> list[str]:
        """Return the lines, without the blank ones at the end."""
        return "\n".join("".join(line).rstrip() for line in self._lines).rstrip().split("\n")

    @property
    def written_lines(self) -> list[str]:
        """Return the lines as they were written: one that was too long for the terminal is one line again."""
        ends = ("" if row in self._continued else "\n" for row in range(1, len(self._lines) + 1))
        text = "".join("".join(line) + end for line, end in zip(self._lines, ends, strict=True))
        return text.rstrip().split("\n")

    def write(self, text: str) -> None:
        """Take in what a program has written."""
        position = 0
        while position < len(text):
            found = _TOKEN.match(text, position)
            assert found is not None, f"an unknown sequence: {text[position : position + 10]!r}"
            position = found.end()
            if (character := found["character"]) is not None:
                self._put(character)
            else:
                self._obey(found["parameters"], found["command"])

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row += 1
            self._reach()
        else:
            if self._column == self.columns:
                self._row, self._column = self._row + 1, 0
                self._continued.add(self._row)
                self._reach()
            line = self._lines[self._row]
            line.extend(" " * (self._column + 1 - len(line)))
            line[self._column] = character
            self._column += 1

    def _obey(self, parameters: str, command: str) -> None:
        match command, parameters:
            case "A", count:
                self._row = max(self._row - int(count or 1), 0)
            case "K", "2":
                self._lines[self._row] = []
                self._continued -= {self._row, self._row + 1}
            case (("h" | "l"), "?25"):
                self.shows_cursor = command == "h"
            case "m", _:
                pass  # colours
            case _:
                raise AssertionError(f"an unknown sequence: {parameters}{command}")

    def _reach(self) -> None:
        while len(self._lines) <= self._row:
            self._lines.append([])
