"""Run a local cloud in the background: start it, find it, serve it, stop it.

A state directory has at most one daemon: the holder of the lock on `DIR/lock`, which the operating system
releases when the process ends for any reason. `DIR/cloud.json` describes how to reach it; a daemon that was
killed leaves a stale one behind, and the next start replaces it. The addresses in it survive a restart.

```
cloud.json      the descriptor, 0600: there while a daemon serves; without it the daemon stops
lock            held by the daemon
cloud.db        the stored documents, 0600
subscription.json   quotas, policies and more, to rehearse rejections (see arm/governance.py)
ca.pem ca.key   the certificate authority
daemon.log      the log
files/          shares
runtime/        replicas
```
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import psutil

from localcloud.arm.identity import CLOUD_NAME
from localcloud.arm.store import Store
from localcloud.cloud import Cloud
from localcloud.operating_system import try_lock
from localcloud.runtime import ContainerHost
from localcloud.runtime.sockets import free_port, is_free
from localcloud.server import Server
from localcloud.tls import ca_bundle, server_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START_TIMEOUT_S: Final = 300
"""Far more than a start takes: a daemon that is still starting on a busy machine is not a failure."""

STOP_TIMEOUT_S: Final = 120
_POLL_S: Final = 0.1
_PROBE_TIMEOUT_S: Final = 5
_TAIL_LINES: Final = 20
_LOCK_WAIT_S: Final = 2
_WATCH_INTERVAL_S: Final = 2
_SETTINGS: Final = "cloud"
_PORT: Final = "port"

LOGGER: Final = logging.getLogger(__name__)


class DaemonError(Exception):
    """A local cloud cannot be started, stopped or used."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """How to reach a local cloud: what `cloud.json` holds and `start` prints."""

    pid: int
    resource_manager: str
    ca_bundle: str
    tenant_id: str
    client_id: str
    client_secret: str
    subscription_id: str
    cloud_name: str


def start(state: Path, environment: Mapping[str, str]) -> Descriptor:
    """Start the daemon of a state directory, unless it runs, and wait until it responds.

    Args:
        state: The directory, created if it is missing.
        environment: The process environment; `AZURE_CONFIG_DIR` is where the Azure CLI keeps its state.

    Raises:
        DaemonError: The directory is rejected, or the daemon does not start.
    """
    prepare(state, environment)
    deadline = time.monotonic() + START_TIMEOUT_S
    running = find(state)
    if running is not None:
        return running
    log = state / "daemon.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "localcloud", "serve", "--state", str(state)],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**environment, "PYTHONUNBUFFERED": "1"},
        )
    try:
        found = _wait_until_found(state, process, deadline)
    except BaseException:
        process.terminate()  # the user has interrupted the start, and nobody needs what it starts
        raise
    if found is not None:
        return found
    # Nobody would find it, and it holds the lock that the next start needs.
    process.kill()
    process.wait()
    tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:])
    raise DaemonError(f"the local cloud did not come up; the end of {log}:\n{tail}")


def _wait_until_found(state: Path, process: subprocess.Popen[bytes], deadline: float) -> Descriptor | None:
    """Return the descriptor once a daemon responds; None if `process` has ended, or it takes too long."""
    while time.monotonic() < deadline:
        found = find(state)
        if found is not None:
            return found
        # Another start may have won the lock, and its daemon may respond soon.
        if process.poll() is not None and not _is_locked(state):
            break
        time.sleep(_POLL_S)
    return None


def stop(state: Path) -> bool:
    """Stop the daemon of a state directory, and processes that a killed daemon left running.

    Returns:
        Whether a daemon was running.

    Raises:
        DaemonError: It does not stop.
    """
    if not state.is_dir():
        return False
    process = _running_process(state)
    if process is not None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
    elif _is_locked(state):
        raise DaemonError(f"{state}/lock is held by a process that {state}/cloud.json does not name")
    with _lock(state) as is_held:
        if not is_held:
            raise DaemonError(f"another local cloud has just been started in {state}: stop again")
        asyncio.run(ContainerHost(state.resolve() / "runtime").recover())
        (state / "cloud.json").unlink(missing_ok=True)
    return process is not None


def _running_process(state: Path) -> psutil.Process | None:
    """Return the daemon that holds the lock, after waiting until one that is starting has its descriptor."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _is_locked(state) and time.monotonic() < deadline:
        process = _process(_read_descriptor(state))
        if process is not None:
            return process
        time.sleep(_POLL_S)
    return None


def find(state: Path) -> Descriptor | None:
    """Return the descriptor of the daemon of a state directory, None if no daemon responds."""
    descriptor = _read_descriptor(state)
    if descriptor is None or not psutil.pid_exists(descriptor.pid) or not _is_locked(state):
        return None
    return descriptor if _responds(descriptor) else None


def prepare(state: Path, environment: Mapping[str, str]) -> None:
    """Create the state directory, readable by its owner only.

    Raises:
        DaemonError: It lies in a directory of the Azure CLI, which is never changed.
    """
    resolved = state.resolve()
    azure_directories = [Path(os.path.expanduser("~/.azure"))]  # noqa: PTH111 - Path.home fails if there is none
    if environment.get("AZURE_CONFIG_DIR"):
        azure_directories.append(Path(environment["AZURE_CONFIG_DIR"]))
    for directory in azure_directories:
        if resolved.is_relative_to(directory.resolve()):
            raise DaemonError(
                f"the state directory {state} lies in {directory}, which belongs to the Azure CLI: choose "
                "another"
            )
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)


def serve(state: Path, environment: Mapping[str, str]) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Raises:
        DaemonError: The directory is rejected, or another daemon uses it.
    """
    prepare(state, environment)
    os.umask(0o077)
    with _wait_for_lock(state) as is_held:
        if not is_held:
            raise DaemonError(f"another local cloud serves {state}")
        asyncio.run(_serve(state.resolve()))


async def _serve(state: Path) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    port = _choose_port(state)
    cloud = Cloud(state, f"https://localhost:{port}")
    server = Server(cloud)
    try:
        await cloud.host.recover()
        await server.listen(port, server_context(state))
        await cloud.open()
        _write_descriptor(state, _descriptor(state, cloud))
        LOGGER.info("serving %s", cloud.base_url)
        await _until_stopped(state, stopping)
    finally:
        (state / "cloud.json").unlink(missing_ok=True)
        await server.close()
        await cloud.close()


async def _until_stopped(state: Path, stopping: asyncio.Event) -> None:
    """Wait for a signal, or for the deletion of `cloud.json`: no command could stop the daemon then."""
    while (state / "cloud.json").exists():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _WATCH_INTERVAL_S)
            return
    LOGGER.warning("%s is gone: stopping", state)


def _descriptor(state: Path, cloud: Cloud) -> Descriptor:
    identity = cloud.identity
    return Descriptor(
        pid=os.getpid(),
        resource_manager=f"{cloud.base_url}/",
        ca_bundle=str(ca_bundle(state)),
        tenant_id=identity.tenant_id,
        client_id=identity.client_id,
        client_secret=identity.client_secret,
        subscription_id=identity.subscription_id,
        cloud_name=CLOUD_NAME,
    )


def _choose_port(state: Path) -> int:
    """Return the port that the state directory has used before, or a free one, which it uses from now on."""
    store = Store(state / "cloud.db")
    try:
        stored = store.get(_SETTINGS, _PORT)
        if stored is not None and is_free(int(stored["port"])):
            return int(stored["port"])
        if stored is not None:
            LOGGER.warning("port %s is taken: another one is chosen, and addresses change", stored["port"])
        port = free_port()
        store.put(_SETTINGS, _PORT, {"port": port})
        return port
    finally:
        store.close()


def _read_descriptor(state: Path) -> Descriptor | None:
    try:
        return Descriptor(**json.loads((state / "cloud.json").read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write_descriptor(state: Path, descriptor: Descriptor) -> None:
    draft = state / "cloud.json.new"
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(asdict(descriptor), indent=2) + "\n", "utf-8")
    draft.replace(state / "cloud.json")


def _responds(descriptor: Descriptor) -> bool:
    url = f"{descriptor.resource_manager}metadata/endpoints?api-version=2022-09-01"
    context = ssl.create_default_context(cafile=descriptor.ca_bundle)
    # Loopback must not go through the environment's proxies.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=_PROBE_TIMEOUT_S) as response:
            tenant: str = json.load(response)["authentication"]["tenant"]
    except (OSError, urllib.error.URLError, ValueError, KeyError):
        return False
    return tenant == descriptor.tenant_id


def _process(descriptor: Descriptor | None) -> psutil.Process | None:
    if descriptor is None:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(descriptor.pid)
        # The pid may have been reused: only a local cloud is stopped.
        if "localcloud" in process.cmdline():
            return process
    return None


def _is_locked(state: Path) -> bool:
    with _lock(state) as is_held:
        return not is_held


@contextlib.contextmanager
def _wait_for_lock(state: Path) -> Iterator[bool]:
    """Hold the lock as `_lock` does, after waiting for processes that only test whether it is free."""
    deadline = time.monotonic() + _LOCK_WAIT_S
    while time.monotonic() < deadline and _is_locked(state):
        time.sleep(_POLL_S)
    with _lock(state) as is_held:
        yield is_held


@contextlib.contextmanager
def _lock(state: Path) -> Iterator[bool]:
    """Hold the state directory's lock if it is free; yield whether it is held."""
    with _opened(state / "lock") as file:
        yield try_lock(file)


def _opened(path: Path) -> IO[bytes]:
    return path.open("ab")
