"""The rules for names of accounts, shares, directories and files: which are valid, and which are equal.

Pure. A path is a tuple of names, outermost first; the empty tuple is the root of a share.

Source: "Naming and referencing shares, directories, files, and metadata".
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from localcloud.files.errors import path_too_deep, path_too_long, storage_error

_ACCOUNT_NAME: Final = re.compile(r"[a-z0-9]{3,24}")
_SHARE_NAME: Final = re.compile(r"[a-z0-9](?:-?[a-z0-9])*")
_SHARE_NAME_LENGTH: Final = range(3, 64)
_FORBIDDEN: Final = re.compile('["\\\\/:|<>*?\x00-\x1f\ufffe\uffff\ud800-\udfff]')
_RESERVED: Final = frozenset(
    {"PRN", "AUX", "NUL", "CON", "CLOCK$", ".", ".."}
    | {f"{device}{number}" for device in ("LPT", "COM") for number in range(1, 10)}
)
_MAX_NAME_UNITS: Final = 255
_MAX_PATH_UNITS: Final = 2048
_MAX_DEPTH: Final = 250


def is_account_name(name: str) -> bool:
    """Return whether a storage account may have this name: 3 to 24 of `a-z0-9`."""
    return _ACCOUNT_NAME.fullmatch(name) is not None


def is_share_name(name: str) -> bool:
    """Return whether a share may have this name: 3 to 63 of `a-z0-9-`, hyphens single and not at the ends."""
    return len(name) in _SHARE_NAME_LENGTH and _SHARE_NAME.fullmatch(name) is not None


def check_share_name(name: str) -> None:
    """Check that a share's name is valid.

    Raises:
        StorageError: OutOfRangeInput for its length, InvalidResourceName for its characters.
    """
    if len(name) not in _SHARE_NAME_LENGTH:
        raise storage_error("OutOfRangeInput")
    if not is_share_name(name):
        raise storage_error("InvalidResourceName")


def split_url_path(raw_path: str) -> tuple[str, ...]:
    """Split the encoded path of a URL into decoded names.

    `%2F` separates as `/` does, and empty names are dropped. The SDK sends directory paths with `%2F`
    between names and file paths with `/`.

    Raises:
        StorageError: InvalidUri, when the path is not UTF-8.
    """
    try:
        decoded = unquote(raw_path, errors="strict")
    except UnicodeDecodeError:
        raise storage_error("InvalidUri") from None
    return tuple(name for name in decoded.split("/") if name)


def check_path(names: tuple[str, ...], *, keep_trailing_dots: bool) -> tuple[str, ...]:
    """Return a path in the form that is stored, after checking it.

    Args:
        names: Decoded names below the share.
        keep_trailing_dots: The value of `x-ms-allow-trailing-dot`; without it, dots at the end of a name are
            removed.

    Raises:
        StorageError: InvalidResourceName for a forbidden or reserved name, InvalidFileOrDirectoryPathName for
            a path that is too long or too deep.
    """
    for name in names:
        if _FORBIDDEN.search(name) or name.upper() in _RESERVED:
            raise storage_error("InvalidResourceName")
    kept = names if keep_trailing_dots else tuple(name.rstrip(".") for name in names)
    if not all(kept) or any(name.upper() in _RESERVED for name in kept):
        raise storage_error("InvalidResourceName")
    if any(_utf16_units(name) > _MAX_NAME_UNITS for name in kept):
        raise path_too_long()
    if _utf16_units("/".join(kept)) > _MAX_PATH_UNITS:
        raise path_too_long()
    if len(kept) > _MAX_DEPTH:
        raise path_too_deep()
    return kept


def fold(name: str) -> str:
    """Return a form of a name that is the same for names that differ only in case.

    Each character is uppercased separately, as in NTFS, so that a name keeps its length: `ß` and `SS` are
    different.
    """
    if name.isascii():
        return name.upper()
    return "".join(upper if len(upper := character.upper()) == 1 else character for character in name)


def fold_path(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return a path with every name folded."""
    return tuple(fold(name) for name in names)


def _utf16_units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
