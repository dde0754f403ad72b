"""Read and write the JSON files that users and the pipeline share.

The caller validates what it reads. A file is written under a temporary name and then renamed, so that readers
never see a part of it.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""Any JSON value."""

_TOO_DEEP: Final = "it is nested too deeply"


def load_json(text: str | bytes, **options: Any) -> Any:  # noqa: ANN401  # as json.loads, whose options it takes
    """Parse JSON. Everything of the pipeline that parses text uses this, so that no input is a bug.

    Raises:
        ValueError: It is no JSON, is not UTF-8, or is nested more deeply than Python's parser allows.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def load_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: It is no TOML, or is nested more deeply than Python's parser allows.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def read_object(path: Path, *, hint: str | None = None) -> dict[str, Json]:
    """Read a file that contains one JSON object; a byte order mark is allowed.

    Args:
        path: The file.
        hint: What to do when there is no such file.

    Raises:
        UsageError: The file is missing, is not JSON, is not an object, or has a key twice in one object.
    """
    repeated: list[str] = []

    def to_object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        keys = [key for key, _ in pairs]
        repeated.extend(key for key in dict.fromkeys(keys) if keys.count(key) > 1)
        return dict(pairs)

    try:
        document: Json = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=to_object)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist", hint=hint) from None
    except (ValueError, OSError, RecursionError) as error:
        why = _TOO_DEEP if isinstance(error, RecursionError) else error
        raise UsageError(f"{path} cannot be read as JSON: {why}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} must contain one JSON object")
    if repeated:
        details = tuple(f"{key}: is there more than once; only the last one would count" for key in repeated)
        raise UsageError(f"{path} has a key more than once in one object", details=details)
    return document


MAX_DEPTH: Final = 64
"""How deeply a value of a parameter may be nested: what walks through it needs stack frames for each."""


def json_problem(value: object, depth: int = 0) -> str:
    """Return why a value that a user wrote cannot be sent as JSON; empty if it can.

    Args:
        value: From TOML, JSON or a command line. TOML has dates, Python's JSON has NaN and lone surrogates.
        depth: How deep it is in another value.
    """
    if depth > MAX_DEPTH:
        return _TOO_DEEP
    if isinstance(value, dict):
        found = (json_problem(each, depth + 1) for pair in value.items() for each in pair)
        return next(filter(None, found), "")
    if isinstance(value, list):
        return next(filter(None, (json_problem(each, depth + 1) for each in value)), "")
    if isinstance(value, str):
        has_odd = any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value)
        return f"{value!r} has a character that is not text" if has_odd else ""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a number that JSON has"
    is_json = value is None or isinstance(value, bool | int | float)
    return "" if is_json else f"{value} is a {type(value).__name__}; write it in quotes"


def as_object(value: Json) -> dict[str, Json]:
    """Return a JSON object as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def object_at(document: Json | Mapping[str, Json], *names: str) -> dict[str, Json]:
    """Return the object that names lead to, each in the object before; an empty one if there is none."""
    found: object = document
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else {}


def as_list(value: Json) -> list[Json]:
    """Return a JSON list as it is, and an empty one for anything else."""
    return value if isinstance(value, list) else []


def as_objects(value: Json) -> list[dict[str, Json]]:
    """Return the objects of a JSON list, an empty one for each other entry; none for anything else."""
    return [as_object(each) for each in as_list(value)]


def user_path(text: str) -> Path:
    """Return the path that a user wrote: `~` is their home folder, where that can be found."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser fails if there is no such folder


def write_atomic(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a text file in one step, with these permissions from the start; create its folder if needed.

    A link stays one: the file that it leads to is written.

    Raises:
        OSError: It cannot be written. What was there before is unchanged.
    """
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        # A full disk is reported without the name of the file.
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def private_file(path: Path, text: str) -> Iterator[Path]:
    """Write a text with secrets to a file that only the user can read, and delete it after the block."""
    write_atomic(path, text, mode=0o600)
    try:
        yield path
    finally:
        path.unlink()
