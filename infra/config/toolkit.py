"""Recognise the AI Toolkit's files where they would not work here as they are. Pure.

Source: the project templates of the AI Toolkit for VS Code, microsoft/windows-ai-studio-templates.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from infra.config.stage import STAGES_PATH
from infra.document import as_list

if TYPE_CHECKING:
    from infra.config.settings import Setting

_COMMANDS: Final = "defaultCommands"
_SERVER: Final = re.compile(r"\bpython[\d.]*\s+\S*\bgradio_chat\.py\b")
"""What the commands of its inference template end in, after a `pip install` of pinned packages."""


def without_toolkit_server(
    settings: tuple[Setting, ...], stage: str
) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """Return the settings of a parameters file without commands that start the toolkit's own server.

    Args:
        settings: The values of the file. Commands of a stage or of a flag are meant, and are not looked at.
        stage: The name of the stage.

    Returns:
        The settings to use, and what to tell the user.
    """
    replaced = [each for each in settings if each.name == _COMMANDS and _starts_toolkit_server(each)]
    notes = tuple(
        f"defaultCommands in {each.source} install packages and start the AI Toolkit's own server; the server"
        " of this project is started instead. To start theirs, set defaultCommands in"
        f" [{stage}.parameters] of {STAGES_PATH}"
        for each in replaced
    )
    return tuple(each for each in settings if each not in replaced), notes


def _starts_toolkit_server(setting: Setting) -> bool:
    return any(_SERVER.search(str(command)) for command in as_list(setting.value))
