"""Bind the port, copy the release to the container's own disk, and become its supervisor there.

Run as `python3 -m inference.start` in the release's folder on the share. Imports the standard library only,
because it runs before anything is installed. The port answers from the first second: the socket is bound
before anything is copied, and the supervisor inherits it, so that no connection is refused in between.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

# Several replicas read the release's folder: no bytecode is written to it.
sys.dont_write_bytecode = True

from inference import VERSION  # noqa: E402 - after the switch above, which applies to this import
from inference.api_keys import ADMIN_KEY_VARIABLE, hide_keys  # noqa: E402 - see above
from inference.control import ReplicaState  # noqa: E402 - see above
from inference.errors import SettingsError, TakeoverError  # noqa: E402 - see above
from inference.listener import bind  # noqa: E402 - see above
from inference.observability.logs import log_unusable, set_up_logging  # noqa: E402 - see above
from inference.settings import Settings, load_settings  # noqa: E402 - see above
from inference.supervisor.page import StartingPage  # noqa: E402 - see above
from inference.supervisor.releases import fetch_release  # noqa: E402 - see above
from inference.unpack import local_folder  # noqa: E402 - see above

if TYPE_CHECKING:
    import socket

LOGGER: Final = logging.getLogger("inference.start")


def main() -> NoReturn:
    """Bind the port, copy the release, become the supervisor. Never returns."""
    set_up_logging()
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        log_unusable(LOGGER, error)
        raise SystemExit(error.exit_code) from None
    set_up_logging(settings.log_format, settings.log_level)
    try:
        listener = bind(settings)
    except OSError as error:
        LOGGER.error("cannot listen on %s:%d: %s", settings.host, settings.port, error.strerror)  # noqa: TRY400 - the reason is enough
        raise SystemExit(1) from None
    # The server needs the digests of the keys only, and pip needs neither. Both inherit this environment.
    hide_keys(os.environ, settings.api_keys)
    hide_keys(os.environ, settings.admin_key, ADMIN_KEY_VARIABLE)
    become_supervisor(listener, find_folder(settings, listener))


def find_folder(settings: Settings, listener: socket.socket) -> Path:
    """Return the folder to run from: a copy of the release on this container's disk.

    A tree that is no release runs where it is, and so does a copy. Files that differ from the manifest are
    used nevertheless: somebody has changed them on the share, and no other release would be better.
    """
    here = Path.cwd()
    copies = local_folder()
    if not settings.release or here.is_relative_to(copies):
        return here
    try:
        with StartingPage(listener, lambda: version_document(settings)):
            return fetch_release(settings.mount, settings.release)
    except TakeoverError as error:
        LOGGER.warning("%s: %s; it is started as it is", settings.release, error)
        # The package alone: a folder that is no release may have anything beside it.
        folder = copies / settings.release
        shutil.copytree(here / "inference", folder / "inference", dirs_exist_ok=True)
        return folder


def version_document(settings: Settings) -> dict[str, Any]:
    """Return the document of `/version` while the release is copied."""
    return {
        "release": settings.release,
        "version": VERSION,
        "revision": settings.revision,
        "replica": settings.replica,
        "started_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "base_model": None,
        "adapters": [],
        "ready": False,
        **ReplicaState(settings.release, "copying the release", 0).to_json(),
    }


def become_supervisor(listener: socket.socket, folder: Path) -> NoReturn:
    """Replace this process with the supervisor, which inherits the listening socket."""
    listener.set_inheritable(True)
    environ = os.environ | {"FJARR_SOCKET_FD": str(listener.fileno()), "PYTHONDONTWRITEBYTECODE": "1"}
    os.chdir(folder)
    os.execve(sys.executable, [sys.executable, "-m", "inference.supervisor"], environ)  # noqa: S606 - a fixed argv


if __name__ == "__main__":
    main()
