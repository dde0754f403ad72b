"""Start the processes of a release: their commands, their environment, their packages."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from inference.api_keys import ADMIN_KEY_VARIABLE, API_KEYS_VARIABLE
from inference.errors import TakeoverError
from inference.packages.provision import path_entries, provide_packages
from inference.supervisor.child import Child, python
from inference.supervisor.forks import Forks, Preload
from inference.unpack import ReleaseError, local_folder

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from inference.imports import Imports
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)

ENGINE: Final = "inference/engine_process.py"
SERVER: Final = "inference.server"

PACKAGES: Final = ".packages"
"""The folder with the packages of later releases, beside the releases on this container's disk."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A release on this container's disk.

    Attributes:
        release: Its id; empty for a tree that is no release.
        folder: Its files.
        packages: The folder with the packages that it needs in addition; None if there are none.
    """

    release: str
    folder: Path
    packages: Path | None


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine process, and the Unix socket on which it listens."""

    socket_path: Path
    process: Child


class Launcher(Protocol):
    """Starts the processes of a release. Tests replace it."""

    def install_first(self) -> Path | None:
        """Provide the packages that the first release needs, and return their folder. Blocks.

        Raises:
            TakeoverError: If that is impossible.
        """

    def install_beside(self, folder: Path) -> Path | None:
        """Provide the packages that a later release needs, and return their folder. Blocks.

        Raises:
            TakeoverError: If that is impossible.
        """

    def new_socket_path(self) -> Path:
        """Return a path for an engine's socket."""

    async def start_engine(self, tree: Tree, socket_path: Path) -> Engine | None:
        """Start a release's engine process; None if its server loads the models itself."""

    async def start_server(self, tree: Tree, socket_path: Path | None, listener: socket.socket) -> Child:
        """Start a release's server on the engine at a socket. It waits until it may accept."""

    async def prepare(self, tree: Tree, imports: Imports) -> None:
        """Import what a server has imported, so that the next one with these packages starts sooner."""

    def close(self) -> None:
        """End what was prepared. The processes that were started stay."""


@dataclass(frozen=True, slots=True)
class ReleaseLauncher(Launcher):
    """Starts the processes of a release with this Python.

    Attributes:
        settings: The settings of the release that this supervisor belongs to.
        environ: The environment that all processes get.
        forks: Starts servers as forks of imported libraries; None where that is impossible.
    """

    settings: Settings
    environ: Mapping[str, str]
    forks: Forks | None = None

    def install_first(self) -> Path | None:
        """Provide the packages that the first release needs, and return their folder."""
        try:
            return provide_packages(self.settings, local_folder() / PACKAGES)
        except (ReleaseError, OSError) as error:
            raise TakeoverError(f"its packages cannot be installed: {error}") from error

    def install_beside(self, folder: Path) -> Path | None:
        """Provide the packages that a later release needs, and return their folder."""
        command = [*python("inference.supervisor.packages"), str(folder.parent / PACKAGES)]
        environ = self.environment(folder.name, None)
        done = subprocess.run(command, check=False, cwd=folder, env=environ, capture_output=True, text=True)
        lines = done.stderr.splitlines()
        if done.returncode:
            raise TakeoverError(lines[-1] if lines else f"its packages: exit code {done.returncode}")
        for line in lines:
            LOGGER.info("%s: %s", folder.name, line)
        return Path(done.stdout) if done.stdout else None

    def new_socket_path(self) -> Path:
        """Return a path for an engine's socket, in a folder of this user's."""
        # Short: the system limits the paths of sockets to about a hundred characters.
        return Path(tempfile.mkdtemp(prefix="fjarr-")) / "engine.sock"

    async def start_engine(self, tree: Tree, socket_path: Path) -> Engine | None:
        """Start a release's engine process; None if its server loads the models itself."""
        if not (tree.folder / ENGINE).is_file():
            return None
        environ = _without_keys(self.environment(tree.release, tree.packages, socket_path))
        process = await Child.start(python("inference.engine_process"), tree.folder, environ)
        return Engine(socket_path, process)

    async def start_server(self, tree: Tree, socket_path: Path | None, listener: socket.socket) -> Child:
        """Start a release's server on the engine at a socket. It waits until it may accept."""
        environ = self.environment(tree.release, tree.packages, socket_path)
        # A server that loads the models itself imports torch, whose threads a fork would not have.
        if self.forks is not None and socket_path is not None:
            child = await self.forks.start(SERVER, tree.folder, environ, listener, tree.packages)
            if child is not None:
                return child
        return await Child.start(python(SERVER), tree.folder, environ, listener)

    async def prepare(self, tree: Tree, imports: Imports) -> None:
        """Import what a server has imported, so that the next one with these packages starts sooner."""
        if self.forks is not None and imports.modules:
            environ = _without_keys(self.environment(tree.release, tree.packages))
            await self.forks.prepare(Preload(imports, tree.packages, environ))

    def close(self) -> None:
        """End what was prepared. The processes that were started stay."""
        if self.forks is not None:
            self.forks.close()

    def environment(
        self, release: str, packages: Path | None, engine_socket: Path | None = None
    ) -> dict[str, str]:
        """Return the environment of a release's process."""
        environ = dict(self.environ)
        if engine_socket is not None:
            environ["FJARR_ENGINE_SOCKET"] = str(engine_socket)
        if release:
            environ["FJARR_RELEASE"] = release
            # On the container's own disk, compiled files save time at the next start.
            environ.pop("PYTHONDONTWRITEBYTECODE", None)
        if packages is not None:
            own = path_entries(packages)
            environ["PYTHONPATH"] = os.pathsep.join(filter(None, (*own, environ.get("PYTHONPATH"))))
            programs = str(packages / "bin")
            environ["PATH"] = os.pathsep.join(filter(None, (environ.get("PATH"), programs)))
        return environ


def _without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    keys = (API_KEYS_VARIABLE, ADMIN_KEY_VARIABLE)
    return {name: value for name, value in environ.items() if name not in keys}
