"""Turn functions into verbs of the command line: their flags, their help, their results and their errors.

A verb's error is a message and an exit code; with `--json` it is also a document on stdout. A word or a flag
that Invoke does not know is rejected with exit code 2 and a suggestion, before anything runs.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import io
import json
import os
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from invoke import Collection, Exit, ParseError, Program, task
from invoke.parser import Parser, ParserContext

from infra.errors import FjarrError, ToolError, UsageError
from infra.interrupts import end_quietly, exit_code_of, interruptible, notes_of
from infra.wording import did_you_mean, name_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType

BUG: Final = 70
STAGE_VARIABLE: Final = "FJARR_STAGE"
"""The environment variable that sets the stage where no `--stage` is given."""

_USAGE: Final = 2
_MACHINE_ERRORS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
)
"""The machine has no more of something. Such an error does not name a file."""

_PROGRAMS: Final = ("invoke", "inv")
_HELP: Final = frozenset({"--help", "-h"})
_STAGE: Final = "stage"
_MISSING_VALUE: Final = re.compile(r"<Argument: (?P<name>[\w-]+).*> needed value")


class Result(Protocol):
    """The result of a verb, printable as text and as JSON."""

    def to_json(self) -> dict[str, object]:
        """Return the document for `--json`."""

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""


@dataclass(slots=True)
class _Output:
    """What this process has printed: with `--json`, stdout gets one document."""

    has_document: bool = False


_OUTPUT: Final = _Output()
_STAGED_VERBS: Final[set[str]] = set()


def verb(**options: Any) -> Callable[[Callable[..., None]], object]:  # noqa: ANN401  # Invoke's options
    """Return a decorator that makes a function an Invoke task; the options are Invoke's.

    The help of each flag gets its default, and `--stage` is by default the value of `FJARR_STAGE`.
    """

    def decorate(body: Callable[..., None]) -> object:
        run = _reporting(body)
        signature = _with_default_stage(inspect.signature(body), os.environ)
        run.__signature__ = signature  # type: ignore[attr-defined]  # what inspect.signature reads
        if _STAGE in signature.parameters:
            _STAGED_VERBS.add(str(options.get("name") or body.__name__))
        help_texts = _with_defaults(options.pop("help", {}), signature)
        return task(auto_shortflags=False, help=help_texts, **options)(run)

    return decorate


def show(result: Result, is_json: bool) -> None:  # noqa: FBT001  # the flag of every verb
    """Print a result on stdout."""
    _OUTPUT.has_document = is_json
    _write(json.dumps(result.to_json(), indent=2) if is_json else result.to_text())


def run_script(main: Callable[[], object]) -> None:
    """Run a script that is no verb, with the verbs' errors and exit codes.

    An error is a message, and a file that cannot be used is one; anything else is a bug and shows its
    traceback.
    """
    try:
        with interruptible():
            main()
    except FjarrError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        if error.filename is None and error.errno not in _MACHINE_ERRORS:
            raise
        explained = _machine_error(error)
        _end(str(explained), explained.exit_code)
    except KeyboardInterrupt as interrupt:
        _end(_interrupted_text(notes_of(interrupt)), exit_code_of(interrupt))


def check_arguments(argv: list[str], tasks: ModuleType) -> None:
    """Check the words and flags of a command line, if it is Invoke's; end with exit code 2 if one is unknown.

    Help that is asked for after a verb with words of its own is printed here.

    Args:
        argv: The command line.
        tasks: The module with the verbs.
    """
    program = Path(argv[0]) if argv else Path()
    if program.stem not in _PROGRAMS and program.parent.name not in _PROGRAMS:
        return
    end_quietly()
    verbs = Collection.from_module(tasks)
    if asked := find_help(argv[1:], verbs):
        try:
            with _kept_help(verbs):
                Program(namespace=verbs, binary="inv[oke]").run([argv[0], "--help", asked], exit=False)
        except BrokenPipeError:
            _close_stdout()  # the reader of a pipe, such as `head`, has ended
        sys.exit(0)
    message = argument_error(argv[1:], verbs)
    if message:
        if "--json" in argv:
            _write(json.dumps({"error": {"message": message.splitlines()[0], "exit_code": _USAGE}}))
        sys.stderr.write(f"error: {message}\n")
        sys.exit(_USAGE)


def find_help(arguments: list[str], verbs: Collection) -> str:
    """Return the verb after which `--help` is given, if Invoke would take that for one of the verb's words.

    Empty if no help is asked for, or if Invoke prints it by itself.
    """
    if _HELP.isdisjoint(arguments):
        return ""  # as nearly always, and the contexts take time to make
    context = next((each for each in _contexts(verbs) if each.name in arguments[:1]), None)
    return str(context.name) if context is not None and context.positional_args else ""


def argument_error(arguments: list[str], verbs: Collection) -> str:
    """Return what is wrong with the arguments of a command line, with a suggestion; empty if nothing is."""
    program = Program()
    contexts = _contexts(verbs)
    try:
        # As Invoke does: its own flags first, which may come anywhere, then the verbs and theirs.
        core = Parser(initial=_core_context(program), ignore_unknown=True).parse_argv(arguments)
        Parser(initial=_core_context(program), contexts=contexts).parse_argv(core.unparsed)
    except ParseError as error:
        return _parse_message(error, contexts)
    except ValueError as error:
        return _number_message(arguments, contexts) or str(error)
    return ""


def _contexts(verbs: Collection) -> list[ParserContext]:
    """Return what Invoke parses each verb's arguments with."""
    with _kept_help(verbs):
        contexts: list[ParserContext] = verbs.to_contexts()
    return contexts


@contextlib.contextmanager
def _kept_help(verbs: Collection) -> Iterator[None]:
    """Give the verbs their help back after the body: Invoke takes it out of them as it makes the contexts."""
    help_texts = {name: dict(verbs[name].help) for name in verbs.task_names}
    try:
        yield
    finally:
        for name, texts in help_texts.items():
            verbs[name].help = texts


def _core_context(program: Program) -> ParserContext:
    return ParserContext(args=program.core_args() + program.task_args())


def _parse_message(error: ParseError, contexts: list[ParserContext]) -> str:
    text = str(error)
    _, quote, rest = text.partition("'")
    word = rest.partition("'")[0] if quote else ""
    missing = _MISSING_VALUE.search(text)
    if missing:
        return f"--{missing['name'].replace('_', '-')} needs a value"
    if not text.startswith("No idea what"):
        return text[:1].lower() + text[1:].rstrip("!")
    verb_names = [str(context.name) for context in contexts]
    context = error.context
    if word.startswith("-"):
        name = "" if context is None or context.name is None else f" of invoke {context.name}"
        flags = [] if context is None else [flag for flag in context.flags if flag.startswith("--")]
        close = did_you_mean(word.partition("=")[0], flags)
        hint = f"invoke --help {context.name}" if name and context is not None else "invoke --list"
        return f"{word.partition('=')[0]} is no flag{name}{close}\nhint: {hint} lists them"
    return f"{word!r} is no verb{did_you_mean(word, verb_names)}\nhint: invoke --list lists them"


def _number_message(arguments: list[str], contexts: list[ParserContext]) -> str:
    """Return which flag has a value that is no number."""
    numbers = {
        flag: argument.kind
        for context in contexts
        for flag, argument in context.flags.items()
        if argument.kind in {int, float}
    }
    for position, word in enumerate(arguments):
        flag, equals, text = word.partition("=")
        value = text if equals else next(iter(arguments[position + 1 :]), "")
        if flag in numbers and not _is_number(value):
            return f"{flag} must be a number, and {value!r} is none"
        if numbers.get(flag) is int and not value.strip().lstrip("+-").isdecimal():
            return f"{flag} must be a whole number, and {value!r} is none"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _reporting(body: Callable[..., None]) -> Callable[..., None]:
    """Convert a `FjarrError` to Invoke's exit without a traceback; anything else is a bug and shows one."""

    @functools.wraps(body)
    def run(*arguments: object, **flags: object) -> None:
        _OUTPUT.has_document = False
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has every character
        try:
            _check_numbers(flags)
            with interruptible():
                body(*arguments, **flags)
        except Exit:
            raise  # the exit code of a result, such as that of a plan with changes
        except FjarrError as error:
            raise _exit(error, flags) from error
        except BrokenPipeError:
            _close_stdout()  # the reader of a pipe, such as `head`, has ended
        except KeyboardInterrupt as interrupt:
            raise _interrupted(interrupt, flags) from None
        except OSError as error:
            if error.filename is None and error.errno not in _MACHINE_ERRORS:
                raise _bug(flags) from None
            raise _exit(_machine_error(error), flags) from error
        except Exception:  # noqa: BLE001  # a bug must show its whole traceback
            raise _bug(flags) from None

    return run


def _end(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"{_printable(message)}\n")
    sys.exit(code)


def _check_numbers(flags: Mapping[str, object]) -> None:
    """Check that no number is negative, which none of a verb may be but the seed of a sampling.

    Raises:
        UsageError: One is, or is NaN.
    """
    for name, value in flags.items():
        if isinstance(value, int | float) and not value >= 0 and name != "seed":
            raise UsageError(f"--{name.replace('_', '-')} {value} is not a number from 0 on")


def _machine_error(error: OSError) -> FjarrError:
    """Return the error of a file that cannot be read or written, or of a machine that lacks something."""
    if error.filename is None:
        return ToolError(
            f"this machine: {error.strerror}", hint="make room for it, and run the same command again"
        )
    what = f"{os.fsdecode(error.filename)}: {error.strerror}"
    if error.errno in _MACHINE_ERRORS:
        return ToolError(what, hint="make room for it, and run the same command again")
    return UsageError(what, hint="see that you may read and write it")


def _exit(error: FjarrError, flags: Mapping[str, object]) -> Exit:
    _show_error(_document(error, flags), flags)
    return Exit(_printable(for_stage(str(error), flags)), error.exit_code)


def _interrupted(interrupt: KeyboardInterrupt, flags: Mapping[str, object]) -> Exit:
    """Return the exit after Ctrl-C, with what goes on elsewhere."""
    notes = [for_stage(note, flags) for note in notes_of(interrupt)]
    code = exit_code_of(interrupt)
    _show_error({"message": "interrupted", "details": notes, "exit_code": code}, flags)
    return Exit(_interrupted_text(notes), code)


def _interrupted_text(notes: Iterable[str]) -> str:
    return "\n".join(("interrupted", *(f"  {note}" for note in notes)))


def _bug(flags: Mapping[str, object]) -> Exit:
    """Return the exit of a bug, with the traceback of the exception that is being handled."""
    _show_error({"message": "this is a bug in Fjarr", "exit_code": BUG}, flags)
    return Exit(_printable(f"{traceback.format_exc()}error: this is a bug in Fjarr"), BUG)


def _printable(text: str) -> str:
    """Return a text that every terminal can show: a file's name need not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _document(error: FjarrError, flags: Mapping[str, object]) -> dict[str, object]:
    return {
        "message": error.message,
        "details": list(error.details),
        "command": error.command,
        "hint": None if error.hint is None else for_stage(error.hint, flags),
        "exit_code": error.exit_code,
    }


def _show_error(document: dict[str, object], flags: Mapping[str, object]) -> None:
    """Print an error as one line of JSON with `--json`, unless stdout has a result's document already."""
    if flags.get("json") and not _OUTPUT.has_document:
        with contextlib.suppress(ToolError):  # stdout may be what failed
            _write(json.dumps({"error": document}))


def _write(text: str) -> None:
    """Write the result to stdout.

    Raises:
        ToolError: It cannot be written, such as to a disk that is full.
    """
    if sys.stdout is None:  # as `>&-` in a shell leaves it
        raise ToolError("there is no standard output to print the result on")
    try:
        sys.stdout.write(f"{_printable(text)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _close_stdout()
        raise ToolError(f"the result cannot be written: {error.strerror}") from error


def for_stage(text: str, flags: Mapping[str, object]) -> str:
    """Return a message whose commands are for the stage that the verb was for, unless it is the default."""
    stage = flags.get(_STAGE)
    if not stage or stage == default_stage(os.environ):
        return text
    return name_stage(text, str(stage), _STAGED_VERBS)


def default_stage(environment: Mapping[str, str]) -> str:
    """Return the stage that is meant where none is named."""
    return environment.get(STAGE_VARIABLE) or "azure"


def _with_default_stage(signature: inspect.Signature, environ: Mapping[str, str]) -> inspect.Signature:
    """Return a signature whose `stage` is by default the one of the environment, if that names one."""
    parameters = [
        each.replace(default=environ.get(STAGE_VARIABLE) or each.default) if each.name == _STAGE else each
        for each in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def _with_defaults(texts: Mapping[str, str], signature: inspect.Signature) -> dict[str, str]:
    """Return help texts with the default of each flag that has one and does not name it."""
    shown = {}
    for name, text in texts.items():
        default = signature.parameters[name].default
        has_default = isinstance(default, str | int | float) and default not in {"", 0}
        is_named = "(default" in text or "the default" in text
        shown[name] = f"{text} (default: {default})" if has_default and not is_named else text
    return shown


def _close_stdout() -> None:
    """Discard what stdout still has: Python's own last flush must not fail as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
