"""Find out what a folder is on: a disk of this machine, its memory, or a share over a network.

Source: proc(5), `/proc/pid/mountinfo`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Storage = Literal["disk", "memory", "network"]

MOUNT_INFO: Final = Path("/proc/self/mountinfo")

NETWORK_TYPES: Final = frozenset(
    {
        "cifs", "smb3", "smbfs", "nfs", "nfs4", "9p", "afs", "ceph", "glusterfs", "lustre",
        "fuse.blobfuse", "fuse.blobfuse2", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
        "fuse.sshfs",
    }
)  # fmt: skip
"""The types of file systems whose reads are requests to another machine. Azure Files is `cifs` or `nfs4`."""

MEMORY_TYPES: Final = frozenset({"tmpfs", "ramfs"})

_TYPE_FIELD: Final = 1
"""The file system's type is the first field after the separator."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system.

    Attributes:
        point: The folder that it is mounted on.
        filesystem: Its type, as the kernel names it.
    """

    point: Path
    filesystem: str

    @property
    def storage(self) -> Storage:
        """Return what it is on. A type that is not known counts as a disk."""
        if self.filesystem in NETWORK_TYPES:
            return "network"
        return "memory" if self.filesystem in MEMORY_TYPES else "disk"


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """Read the kernel's list of mounts, in its order. Lines of another form are left out."""
    mounts = []
    for line in text.splitlines():
        fields = line.split(" ")
        # A number of optional fields ends with a hyphen.
        separator = fields.index("-", 6) if "-" in fields[6:] else len(fields)
        if separator + _TYPE_FIELD < len(fields):
            mounts.append(Mount(Path(_unescape(fields[4])), fields[separator + _TYPE_FIELD]))
    return tuple(mounts)


def find_mount(mounts: Iterable[Mount], path: Path) -> Mount | None:
    """Return the mount that a path without symbolic links is on; None if there is none.

    Of several on one folder the last covers the others.
    """
    found: Mount | None = None
    for mount in mounts:
        is_deeper = found is None or len(mount.point.parts) >= len(found.point.parts)
        if is_deeper and path.is_relative_to(mount.point):
            found = mount
    return found


def detect_storage(path: Path, mount_info: Path = MOUNT_INFO) -> Storage:
    """Return what a path is on, which need not exist; a disk where the kernel does not say."""
    try:
        text = mount_info.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return "disk"
    mount = find_mount(parse_mounts(text), path.resolve())
    return "disk" if mount is None else mount.storage


def _unescape(text: str) -> str:
    r"""Return a path in which blanks and backslashes were written as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), text)
