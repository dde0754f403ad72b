"""The command lines of the benchmarks: their arguments, their errors and their exit codes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from benchmarks.processes import StartError

if TYPE_CHECKING:
    from collections.abc import Callable

WRONG_ARGUMENT: Final = 2
NO_TOOL: Final = 3
INTERRUPTED: Final = 130


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a benchmark, and end with its exit code.

    What its user can change is a sentence and not a traceback: a file or a package that is missing, a stage
    that is not up, a server or an engine that does not start.
    """
    try:
        code = main() or 0
    except StartError as error:
        code = _fail(str(error), WRONG_ARGUMENT)
    except ModuleNotFoundError as error:
        code = _fail(f"the package {error.name} is not installed", NO_TOOL)
    except KeyboardInterrupt:
        code = _fail("interrupted", INTERRUPTED)
    except OSError as error:
        if error.filename is None:
            raise
        code = _fail(f"{error.filename}: {error.strerror}", WRONG_ARGUMENT)
    except Exception as error:
        # The errors of the pipeline and of the server that say what to change have an exit code.
        exit_code = getattr(error, "exit_code", None)
        if exit_code is None:
            raise
        code = _fail(str(error), exit_code)
    sys.exit(code)


def count(text: str) -> int:
    """Return the value of an argument that counts something, at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


count.__name__ = "whole number"  # argparse shows it where the text is none


def model_folder(text: str) -> Path:
    """Return the folder of a model that an argument names."""
    return _folder_with(text, "config.json")


def adapter_folder(text: str) -> Path:
    """Return the folder of an adapter that an argument names."""
    return _folder_with(text, "adapter_config.json")


def _folder_with(text: str, file: str) -> Path:
    folder = Path(text)
    if not (folder / file).is_file():
        raise argparse.ArgumentTypeError(f"there is no {file} in {folder}")
    return folder


def _fail(message: str, code: int) -> int:
    text = message if message.startswith("error: ") else f"error: {message}"
    print(text, file=sys.stderr)  # noqa: T201 - the errors of a command line go to stderr
    return code
