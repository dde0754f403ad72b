"""The beginning of a connection to an engine process: lines of JSON, whatever the versions of the two ends.

The client sends a hello, the engine answers with its own, and then with a line for each change of its state.
A client of the role `requests` has to speak the engine's version; after the line `ready` its connection goes
on with the frames of `messages`. A client of the role `status` receives lines for as long as it is connected.
Each line is an object; readers ignore members that they do not know.

Imports the standard library only: the supervisor uses it before anything is installed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from inference.errors import ProtocolVersionError

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOCOL: Final = "fjarr-engine"
VERSION: Final = 2
"""The version of the messages. It changes with every change of them; a test compares their schema."""

MAX_LINE_BYTES: Final = 64 * 1024

Role = Literal["requests", "status"]
State = Literal["starting", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first line of each end.

    Attributes:
        version: The version of the messages that this end speaks.
        release: The release that this end runs; empty outside of a release.
        role: What a client wants of the connection; the engine's own is of no meaning.
        pid: The process.
    """

    version: int
    release: str
    role: Role = "requests"
    pid: int = 0


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The state of an engine process.

    Attributes:
        state: `starting` until it serves; `draining` once it accepts no further requests; `failed` if it
            cannot serve, or no longer.
        phase: What it is doing while it starts.
        percent: How far that is.
        reason: Why it has failed.
        models: The names of the models that it serves, the base first.
    """

    state: State
    phase: str = ""
    percent: int = 0
    reason: str = ""
    models: tuple[str, ...] = ()


def hello_line(hello: Hello) -> bytes:
    """Return the line of a hello."""
    return _line({"protocol": PROTOCOL} | asdict(hello))


def read_hello(line: bytes) -> Hello:
    """Read the other end's hello.

    Raises:
        ProtocolVersionError: If the line is not a hello.
    """
    document = _read(line)
    version = document.get("version")
    if document.get("protocol") != PROTOCOL or not isinstance(version, int):
        raise ProtocolVersionError(f"the socket's other end does not speak the protocol {PROTOCOL}")
    role: Role = "status" if document.get("role") == "status" else "requests"
    pid = document.get("pid")
    return Hello(version, str(document.get("release") or ""), role, pid if isinstance(pid, int) else 0)


def check_versions(server: Hello, engine: Hello) -> None:
    """Check that a server and an engine speak the same version.

    Raises:
        ProtocolVersionError: If they do not.
    """
    if server.version != engine.version:
        raise ProtocolVersionError(
            f"the server ({_release(server)}) speaks version {server.version} of the engine protocol, and the"
            f" engine process ({_release(engine)}) version {engine.version}: the engine process has to be"
            " restarted with the server's release"
        )


def status_line(status: EngineStatus) -> bytes:
    """Return the line of a status."""
    return _line(asdict(status))


def read_status(line: bytes) -> EngineStatus:
    """Read the line of a status.

    Raises:
        ProtocolVersionError: If the line is not a status.
    """
    document = _read(line)
    state, percent, models = document.get("state"), document.get("percent"), document.get("models")
    if state not in ("starting", "ready", "draining", "failed"):
        raise ProtocolVersionError("the engine process reports a state that this release does not know")
    return EngineStatus(
        state,
        str(document.get("phase") or ""),
        percent if isinstance(percent, int) else 0,
        str(document.get("reason") or ""),
        tuple(map(str, models)) if isinstance(models, list) else (),
    )


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _read(line: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {}


def _release(hello: Hello) -> str:
    return f"release {hello.release}" if hello.release else "no release"
