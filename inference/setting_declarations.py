"""How a setting is declared: the variables that set it, its parser, its default and its description.

Imports the standard library only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """How a field of `Settings` is set.

    Attributes:
        variables: The environment variables that set it; a later one overrides an earlier one.
        parse: Turns a variable's text into the field's value; raises ValueError.
        default: The field's value if no variable is set.
        meaning: What the setting does, in Markdown.
        default_text: The default in words, in Markdown, if the value alone does not explain it.
    """

    variables: tuple[str, ...]
    parse: Callable[[str], object]
    default: object
    meaning: str
    default_text: str | None

    @property
    def name(self) -> str:
        """Return the variable that users set."""
        return self.variables[-1]

    @property
    def shown_default(self) -> str:
        """Return the default for the reference, in Markdown."""
        if self.default_text is not None:
            return self.default_text
        if isinstance(self.default, bool):
            return "`on`" if self.default else "`off`"
        if isinstance(self.default, float):
            return f"`{self.default:g}`"
        return f"`{self.default}`" if self.default != "" else ""


def setting(
    variables: str | tuple[str, ...],
    parse: Callable[[str], T],
    default: T,
    meaning: str,
    default_text: str | None = None,
) -> T:
    """Declare a field of `Settings`. The arguments are the attributes of `Setting`."""
    names = (variables,) if isinstance(variables, str) else variables
    declared = Setting(names, parse, default, meaning, default_text)
    return dataclasses.field(default=default, metadata={"setting": declared})
