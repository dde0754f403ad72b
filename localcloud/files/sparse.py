"""Sparse files: deallocate a range, and list the ranges that contain data.

On systems and file systems without support for deallocation, zeros are written instead. This is the only
module that calls the C library: Python has no function to punch a hole.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_ZEROS: Final = bytes(1024 * 1024)
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def clear_range(descriptor: int, offset: int, length: int) -> None:
    """Deallocate `length` bytes from `offset`, which then read as zeros; the file keeps its size."""
    if _FALLOCATE is not None and _punch(_FALLOCATE, descriptor, offset, length):
        return
    while length > 0:
        written = os.pwrite(descriptor, _ZEROS[:length], offset)
        offset, length = offset + written, length - written


def data_ranges(descriptor: int, first: int, last: int) -> list[tuple[int, int]]:
    """Return the ranges within `first`..`last` (inclusive) that contain data, as first and last bytes.

    They are aligned to the file system's blocks, so a range may contain some zeros, as in Azure.
    """
    found = []
    position = first
    while position <= last:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        if start > last:
            break
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        found.append((start, min(position - 1, last)))
    return found


def _find_fallocate() -> Callable[..., int] | None:
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]  # type: ignore[attr-defined] # a ctypes function
    return function


def _punch(fallocate: Callable[..., int], descriptor: int, offset: int, length: int) -> bool:
    if fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code))


_FALLOCATE: Final = _find_fallocate()
