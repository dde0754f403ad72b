"""What all runs of a replica's container share: directories, environment, console log and process tree."""

from __future__ import annotations

import secrets
import shutil
import string
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from localcloud import virtual_environment
from localcloud.runtime.logs import console_log
from localcloud.runtime.processes import REPLICA_VARIABLE, ProcessTree

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import aiohttp

    from localcloud.runtime.mounts import Mounts
    from localcloud.runtime.spec import EventType, Limits, RevisionSpec

    # Writes an event of a replica: its name, the reason, the message, the type and the count.
    Emit = Callable[[str, str, str, EventType, int], Awaitable[None]]

LEDGER: Final = "processes.json"
CONSOLE: Final = "console.log"
VENV: Final = "venv"
_SUFFIX_LETTERS: Final = string.ascii_lowercase + string.digits
_SUFFIX_LENGTH: Final = 5
_SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class ReplicaContext:
    """The parts of the container host that a replica uses.

    Attributes:
        directory: The directory of the app's replicas; each gets a directory with its name.
        session: For HTTP probes.
        mounts: The symlinks of all replicas.
        limits: Times and sizes.
        emit: Writes an event of a replica to the app's system log: (replica, reason, message, type, count).
        ports: Returns the ports that other replicas were given.
    """

    directory: Path
    session: aiohttp.ClientSession
    mounts: Mounts
    limits: Limits
    emit: Emit
    ports: Callable[[], set[int]]


class Workspace:
    """A replica's name, directory, console log and process tree.

    Args:
        spec: The revision.
        context: The host's side.
    """

    def __init__(self, spec: RevisionSpec, context: ReplicaContext) -> None:
        self.name = execution_replica_name(spec.revision) if spec.runs_once else new_name(spec.revision)
        self.spec = spec
        self.context = context
        self.directory = context.directory / self.name
        self.log = console_log(self.directory / CONSOLE, context.limits.log_bytes)
        self.processes = ProcessTree(self.name, self.directory / LEDGER)

    def create(self) -> None:
        """Create the directories and the process ledger. Blocks on the disk."""
        create_directories(self.directory)
        self.processes.open()

    def environment(self, port: int | None) -> dict[str, str]:
        """Return the whole environment of the container's process.

        Nothing of this machine's environment is in it but a minimal PATH, with the replica's own virtual
        environment first. HOME, under which pip and others keep their caches, TMPDIR and LANG are the
        replica's own. The template's variables override those, and the platform's override the template's.

        Args:
            port: The container's loopback port, None without an ingress.
        """
        minimal = {
            "PATH": f"{self.directory / VENV / 'bin'}:{_SYSTEM_PATH}",
            "VIRTUAL_ENV": str(self.directory / VENV),
            "HOME": str(self.directory / "home"),
            "TMPDIR": str((self.directory / "tmp").readlink()),
            "LANG": "C.UTF-8",
        }
        platform = {
            REPLICA_VARIABLE: self.name,
            "CONTAINER_APP_ENV_DNS_SUFFIX": self.spec.env_dns_suffix,
        }
        if self.spec.runs_once:
            platform["CONTAINER_APP_JOB_NAME"] = self.spec.app
            platform["CONTAINER_APP_JOB_EXECUTION_NAME"] = self.spec.revision
        else:
            platform["CONTAINER_APP_NAME"] = self.spec.app
            platform["CONTAINER_APP_REVISION"] = self.spec.revision
            platform["CONTAINER_APP_HOSTNAME"] = self.spec.hostname
        if port is not None:
            platform["CONTAINER_APP_PORT"] = str(port)
        return minimal | dict(self.spec.container.env) | platform

    async def emit(self, reason: str, message: str, kind: EventType = "Normal", count: int = 1) -> None:
        """Write an event of the replica to the app's system log."""
        await self.context.emit(self.name, reason, message, kind, count)


def new_name(revision: str) -> str:
    """Return a new name for a replica, in Azure's form: `{revision}-{10 hex}-{5}`."""
    return f"{revision}-{secrets.token_hex(5)}-{_letters(_SUFFIX_LENGTH)}"


def execution_replica_name(execution: str) -> str:
    """Return a new name for a replica of a job's execution, in Azure's form: `{execution}-{5}`."""
    return f"{execution}-{_letters(_SUFFIX_LENGTH)}"


def _letters(count: int) -> str:
    return "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(count))


def create_directories(directory: Path) -> None:
    """Create a replica's directories: `scratch` (the working directory), `home`, `venv` and `tmp`.

    `tmp` is a symlink to a directory with a short path: sockets are made in TMPDIR, and the system limits
    their paths to about a hundred characters.
    """
    for part in (directory, directory / "scratch", directory / "home"):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    virtual_environment.create(directory / VENV)
    (directory / "tmp").symlink_to(tempfile.mkdtemp(prefix="fjarr-"))


def remove_directories(directory: Path) -> None:
    """Remove what `create_directories` made, and keep the log."""
    tmp = directory / "tmp"
    if tmp.is_symlink():
        shutil.rmtree(tmp.readlink(), ignore_errors=True)
        tmp.unlink()
    for part in ("scratch", "home", VENV):
        shutil.rmtree(directory / part, ignore_errors=True)


def remove_oldest(directory: Path, alive: set[str], kept: int) -> None:
    """Remove the oldest logs of ended replicas, all but `kept` of them. Blocks on the disk."""
    ended = [path for path in directory.glob("*") if path.name not in alive]
    ended.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in ended[kept:]:
        shutil.rmtree(path, ignore_errors=True)
