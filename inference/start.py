"""Bind the port, install missing packages, and become the server.

Run as `python3 -m inference.start` in the release's folder. Imports the standard library only, because it
runs before anything is installed. The port answers from the first second: the socket is bound before
packages are checked, and while pip runs a small server reports that on `/readyz`. Then the process becomes
`inference.server`, which inherits the listening socket, so that no connection is refused in between.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NoReturn, Self

# Several replicas read the release's folder: no bytecode is written to it.
sys.dont_write_bytecode = True

from inference.api_keys import ADMIN_KEY_VARIABLE, hide_keys  # noqa: E402 - after the switch above, which applies to this import
from inference.engines.catalogue import (  # noqa: E402 - see above
    REQUIREMENTS_FOLDER,
    engine_requirements,
    find_device,
    find_engine,
    quantization_requirements,
)
from inference.errors import LoadError, SettingsError  # noqa: E402 - see above
from inference.listener import bind  # noqa: E402 - see above
from inference.models.hardware import FITTING_SHARE  # noqa: E402 - see above
from inference.models.weights import find_weights, stored_bytes  # noqa: E402 - see above
from inference.observability.logs import set_up_logging  # noqa: E402 - see above
from inference.settings import Settings, load_settings  # noqa: E402 - see above

if TYPE_CHECKING:
    import socket
    from pathlib import Path

LOGGER: Final = logging.getLogger("inference.start")
QUERY_TIMEOUT_S: Final = 20.0
TRACING_REQUIREMENTS: Final = REQUIREMENTS_FOLDER / "requirements-tracing.txt"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A line of a requirements file: a distribution and its version.

    Attributes:
        operator: `==` or `>=`; the server's files use no other.
        version: `1.2`, or `1.2.*` with `==`.
    """

    name: str
    operator: str
    version: str

    def accepts(self, installed: str) -> bool:
        """Return whether an installed version meets the requirement."""
        if self.operator == ">=":
            return _release(installed) >= _release(self.version)
        if self.version.endswith(".*"):
            wanted = _release(self.version[:-2])
            return _release(installed)[: len(wanted)] == wanted
        return _release(installed) == _release(self.version)


def main() -> NoReturn:
    """Bind the port, install missing packages, become the server. Never returns."""
    set_up_logging()
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        _exit("the settings cannot be used", error.problems, error.exit_code)
    set_up_logging(settings.log_format, settings.log_level)
    try:
        listener = bind(settings)
    except OSError as error:
        _exit(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}", (), 1)
    # The server needs the digests of the keys only, and pip needs neither. Both inherit this environment.
    hide_keys(os.environ, settings.api_keys)
    hide_keys(os.environ, settings.admin_key, ADMIN_KEY_VARIABLE)
    files = requirement_files(settings)
    missing = find_missing(parse_requirements("".join(path.read_text() for path in files)))
    if missing:
        LOGGER.info("installing packages: %s", ", ".join(missing))
        with StartingPage(listener):
            exit_code = install(files)
        if exit_code:
            names = ", ".join(str(path) for path in files)
            _exit(f"pip could not install {names}; see its output above", (), 1)
    become_server(listener)


def requirement_files(settings: Settings) -> tuple[Path, ...]:
    """Return the requirements files for these settings, the engine's first."""
    files = [engine_requirements(settings.engine, settings.device)]
    if is_quantized(settings):
        files.append(quantization_requirements(find_engine(settings.engine, settings.device)))
    if settings.otlp_endpoint is not None:
        files.append(TRACING_REQUIREMENTS)
    return tuple(files)


def is_quantized(settings: Settings) -> bool:
    """Return whether the weights will be quantised, as far as that is known before packages are installed."""
    if settings.quantization != "auto":
        return settings.quantization != "none"
    if find_device(settings.device) == "cpu":
        return False
    try:
        weights = find_weights(
            settings.mount, settings.base_model, settings.adapter, allows_pickle=settings.allow_pickle
        )
        weight_bytes = stored_bytes(weights.base)
    except LoadError:
        # The server reports it.
        return False
    return weight_bytes > FITTING_SHARE * query_gpu_bytes()


def query_gpu_bytes() -> float:
    """Return the free memory of all GPUs together; infinity if it is unknown.

    Source: `nvidia-smi --help-query-gpu`; the NVIDIA container runtime puts the program into containers.
    """
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_S)
        return 2**20 * sum(int(line) for line in done.stdout.split()) or math.inf
    except (OSError, ValueError, subprocess.SubprocessError):
        return math.inf


def parse_requirements(text: str) -> tuple[Requirement, ...]:
    """Read a requirements file of the server.

    Raises:
        ValueError: For a line that is not `name==version` or `name>=version`.
    """
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(_parse_requirement(line) for line in lines if line)


def find_missing(requirements: tuple[Requirement, ...]) -> tuple[str, ...]:
    """Return the distributions that are missing or have a version that does not meet the requirement."""
    return tuple(requirement.name for requirement in requirements if not _is_installed(requirement))


def install(files: tuple[Path, ...]) -> int:
    """Install the requirements with pip, whose output goes to the log. Return its exit code."""
    command = install_command(files, has_pip=find_spec("pip") is not None, uv=shutil.which("uv"))
    return subprocess.run(command, check=False).returncode


def install_command(files: tuple[Path, ...], *, has_pip: bool, uv: str | None) -> list[str]:
    """Return the command that installs requirements: pip, or uv in an image that has only that."""
    wanted = [part for path in files for part in ("-r", str(path))]
    if uv is not None and not has_pip:
        command = [uv, "pip", "install", "--python", sys.executable, "--break-system-packages", "--no-cache"]
        return [*command, *wanted]
    command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check"]
    return [*command, "--root-user-action=ignore", "--progress-bar=off", *wanted]


def become_server(listener: socket.socket) -> NoReturn:
    """Replace this process with the server, which inherits the listening socket."""
    listener.set_inheritable(True)
    environ = os.environ | {"FJARR_SOCKET_FD": str(listener.fileno()), "PYTHONDONTWRITEBYTECODE": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "inference.server"], environ)  # noqa: S606 - a fixed argv


class StartingPage:
    """A small server on the bound socket, for the time that pip runs. A context manager.

    `/healthz` returns 200, so that the startup probe does not end a container that is installing; every other
    path returns 503.
    """

    def __init__(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        # The socket is bound and listens already: of HTTPServer only the accept loop is used.
        self._server = HTTPServer((host, port), _StartingHandler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # `shutdown` ends the loop and keeps the socket open for the server.
        self._server.shutdown()
        self._thread.join()


class _StartingHandler(BaseHTTPRequestHandler):
    timeout = 5

    def do_GET(self) -> None:
        """Answer a probe."""
        if self.path == "/healthz":
            self._answer(200, {"status": "ok"})
        else:
            self._answer(503, {"status": "starting", "phase": "installing packages", "percent": 0})

    def do_POST(self) -> None:
        """Answer a request that came too early."""
        self._answer(503, {"error": {"message": "The server is starting.", "type": "server_error"}})

    def log_message(self, *_: object) -> None:
        """Log nothing: probes are frequent."""

    def _answer(self, status: int, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status != 200:  # noqa: PLR2004 - OK
            self.send_header("Retry-After", "5")
        self.end_headers()
        self.wfile.write(body)


def _parse_requirement(line: str) -> Requirement:
    match = re.fullmatch(r"([A-Za-z0-9._-]+)(==|>=)([0-9][0-9.]*\*?)", line)
    if match is None:
        raise ValueError(f"cannot read the requirement {line!r}: write name==version or name>=version")
    return Requirement(*match.groups())


def _is_installed(requirement: Requirement) -> bool:
    try:
        return requirement.accepts(metadata.version(requirement.name))
    except metadata.PackageNotFoundError:
        return False


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _exit(text: str, problems: tuple[str, ...], exit_code: int) -> NoReturn:
    for problem in problems:
        LOGGER.error("%s", problem)
    LOGGER.error("%s", text)
    raise SystemExit(exit_code)


if __name__ == "__main__":
    main()
