"""What a server has imported from outside its release, so that a process can import it beforehand.

The server reports it to its supervisor once it is ready. Imports the standard library only.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

PACKAGE: Final = __name__.partition(".")[0]
MODULES_PER_MESSAGE: Final = 500
"""The control channel's lines have at most 64 KiB."""


@dataclass(frozen=True, slots=True)
class Imports:
    """Libraries and what they have to find when they are imported.

    Attributes:
        modules: The modules, in the order in which their imports began.
        blocked: Modules whose import has to fail.
        environ: The variables that the server has set for them.
    """

    modules: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Return the messages of the control channel that transfer this, the last one with `complete`."""
        for start in range(0, len(self.modules), MODULES_PER_MESSAGE):
            yield {"modules": self.modules[start : start + MODULES_PER_MESSAGE]}
        yield {"blocked": self.blocked, "environ": dict(self.environ), "complete": True}

    def extended(self, message: Mapping[str, Any]) -> Self:
        """Return this with what another message adds."""
        return type(self)(
            (*self.modules, *message.get("modules", ())),
            (*self.blocked, *message.get("blocked", ())),
            {**self.environ, **message.get("environ", {})},
        )

    def includes(self, other: Imports) -> bool:
        """Return whether a process that was started with this serves a server with those."""
        return (
            set(other.modules) <= set(self.modules)
            and set(other.blocked) <= set(self.blocked)
            and other.environ.items() <= self.environ.items()
        )

    def united(self, other: Imports) -> Self:
        """Return what both have together."""
        return type(self)(
            tuple(dict.fromkeys((*self.modules, *other.modules))),
            tuple(dict.fromkeys((*self.blocked, *other.blocked))),
            {**self.environ, **other.environ},
        )


def find_imports(
    modules: Mapping[str, ModuleType | None], folder: Path, environ: Mapping[str, str]
) -> Imports:
    """Return what has been imported, without the standard library and the release's own modules.

    Args:
        modules: `sys.modules`.
        folder: The release's folder.
        environ: The variables that this process has set for its libraries.
    """
    names = [name for name, module in modules.items() if _is_library(name, module, folder)]
    blocked = [name for name, module in modules.items() if module is None]
    return Imports(tuple(names), tuple(blocked), environ)


def _is_library(name: str, module: ModuleType | None, folder: Path) -> bool:
    """Return whether a module is of a library, and can be imported by its name."""
    top = name.partition(".")[0]
    spec = getattr(module, "__spec__", None)
    if top in sys.stdlib_module_names or top == PACKAGE or spec is None or spec.name != name:
        return False
    return spec.origin is None or not Path(spec.origin).is_relative_to(folder)
