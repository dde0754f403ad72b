"""The container host: all apps, revisions, jobs and replicas of the local cloud, with ingresses and logs.

It must not know Azure's resources. On disk, below its directory:

```
mounts.json                    the symlinks that exist
apps/<app>/system.log(.1)
apps/<app>/replicas/<replica>/
  console.log(.1)              kept after the replica's end, for the newest of the app
  processes.json               while the replica may have processes
  {scratch,home,venv,tmp}      while the replica exists
jobs/<job>/                    the same for the executions of a job
```
"""

from __future__ import annotations

import asyncio
import re
import shutil
from typing import TYPE_CHECKING, Final

from localcloud.clock import utc_now
from localcloud.runtime.executions import Executions
from localcloud.runtime.ingress import Backend, Ingress, new_session
from localcloud.runtime.logs import Log, console_log, system_log
from localcloud.runtime.mounts import Mounts
from localcloud.runtime.orphans import kill_orphans
from localcloud.runtime.revision import Revision
from localcloud.runtime.sockets import free_port
from localcloud.runtime.spec import (
    ConsoleRecord,
    EventType,
    IngressPolicy,
    Limits,
    ReplicaStatus,
    RevisionNotActiveError,
    RevisionSpec,
    RevisionState,
    SystemRecord,
)
from localcloud.runtime.workspace import CONSOLE, ReplicaContext, remove_oldest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp

    from localcloud.runtime.workspace import Emit

_STOPPED: Final = RevisionState("Stopped", "None", "")


class _App:
    """An app: its system log, its revisions, its ingress, and the revision that receives requests."""

    def __init__(self, name: str, log: Log[SystemRecord]) -> None:
        self.name = name
        self.log = log
        self.revisions: dict[str, Revision] = {}
        self.served: str | None = None
        self.ingress: Ingress | None = None
        self.port: int | None = None

    def backends(self) -> list[Backend]:
        revision = self.revisions.get(self.served or "")
        return revision.backends if revision is not None else []

    async def wake(self) -> None:
        """Start a replica, if the app has scaled to zero, and return when it is ready."""
        revision = self.revisions.get(self.served or "")
        if revision is not None:
            await revision.wake()


class ContainerHost:
    """The container apps of one local cloud.

    Guarantees, beside those of `Replica`, `Revision` and `Ingress`:

    - Before anything is started, the processes and files that an earlier host left on the same directory are
      removed, even if that host was killed with -9 (for the limits see `localcloud.runtime.processes`).
    - After `close` has returned there is no process, port or symlink left.
    - An unknown name raises KeyError, unless the method documents otherwise.

    Only one host may use a directory at a time. All methods must be called on one event loop.

    Args:
        state: The directory for all files; created when needed.
        limits: Times and sizes.
    """

    def __init__(self, state: Path, limits: Limits | None = None) -> None:
        self._state = state.resolve()
        self._limits = limits or Limits()
        self._apps: dict[str, _App] = {}
        self._mounts = Mounts(self._state)
        self._session: aiohttp.ClientSession | None = None
        self._recovery: asyncio.Task[tuple[str, ...]] | None = None
        self.executions = Executions(self._state, self._limits, self._context, self.recover)

    async def recover(self) -> tuple[str, ...]:
        """Kill and remove what an earlier host left; return the names of its replicas.

        This happens once, before anything is started, whether the method is called or not.
        """
        if self._recovery is None:
            self._recovery = asyncio.create_task(asyncio.to_thread(self._recover))
        return await asyncio.shield(self._recovery)

    async def start_app(self, app: str, port: int | None = None) -> int:
        """Listen on a port of 127.0.0.1 for an app, and return it; respond 503 until a replica is ready.

        An app that is already listening keeps its port.

        Args:
            app: The app's name.
            port: The port to listen on; None for a free one.

        Raises:
            OSError: the port is taken, or none is free.
        """
        await self.recover()
        entry = self._app(app)
        if entry.ingress is not None and entry.port is not None:
            return entry.port
        chosen = port or free_port(self._ports())
        ingress = Ingress(app, entry.backends, self._open_session(), self._limits, entry.wake)
        await ingress.listen(chosen)
        entry.ingress, entry.port = ingress, chosen
        return chosen

    def set_ingress_policy(self, app: str, policy: IngressPolicy) -> None:
        """Set what an app's ingress does beside forwarding, from the next request on."""
        ingress = self._apps[app].ingress
        if ingress is None:
            raise KeyError(app)
        ingress.policy = policy

    async def stop_app_ingress(self, app: str) -> None:
        """Stop listening for an app (its ingress was disabled)."""
        entry = self._apps[app]
        ingress, entry.ingress, entry.port = entry.ingress, None, None
        if ingress is not None:
            await ingress.close()

    async def serve(self, app: str, revision: str) -> None:
        """Send the app's requests to the ready replicas of a revision, which need not run yet."""
        self._apps[app].served = revision

    async def run(self, spec: RevisionSpec) -> None:
        """Start a revision or adjust its number of replicas; do not wait until they are ready.

        A changed specification under the same name applies to new replicas only: call `restart` to replace
        the running ones.
        """
        await self.recover()
        await self._prune(spec.app)
        app = self._app(spec.app)
        revision = app.revisions.get(spec.revision)
        if revision is None:
            revision = app.revisions[spec.revision] = self._new_revision(app, spec)
        revision.run(spec)

    async def wait_ready(self, revision: str) -> None:
        """Wait until all replicas of a revision are ready, including those of a restart in progress.

        Raises:
            RevisionNotActiveError: it does not run, or was stopped meanwhile.
        """
        await self._active(revision).wait_ready()

    async def restart(self, revision: str) -> None:
        """Replace a revision's replicas start-first, in the background: see `Revision.restart`.

        The new replicas are in `replicas` when it returns.

        Raises:
            RevisionNotActiveError: it does not run.
        """
        active = self._active(revision)
        await self._prune(active.spec.app)
        active.restart()

    async def stop(self, revision: str) -> None:
        """Stop a revision, and return when nothing of it is left; do nothing if it does not run."""
        found = self._find(revision)
        if found is None:
            return
        if found.is_active:
            await self._announce(found.spec, "RevisionDeactivating", f"Deactivating revision '{revision}'")
        await found.stop()

    async def remove_app(self, app: str) -> None:
        """Stop an app and remove its logs; do nothing if there is no such app."""
        entry = self._apps.get(app)
        if entry is None:
            return
        await self._end(entry)
        del self._apps[app]
        await asyncio.to_thread(shutil.rmtree, self._directory_of(app), ignore_errors=True)

    async def close(self) -> None:
        """Stop all apps, and return when no process and no port is left."""
        await self.recover()
        await self.executions.close()
        await asyncio.gather(*(self._end(entry) for entry in self._apps.values()))
        self._apps.clear()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def replicas(self, revision: str) -> tuple[ReplicaStatus, ...]:
        """Return the status of a revision's replicas, newest first; none for one that does not run."""
        found = self._find(revision)
        return found.statuses if found is not None else ()

    def revision_state(self, revision: str) -> RevisionState:
        """Return the state of a revision; Stopped for one that does not run."""
        found = self._find(revision)
        return found.state if found is not None else _STOPPED

    def console_log(
        self, revision: str, replica: str, *, tail: int = 20, follow: bool = False
    ) -> AsyncIterator[ConsoleRecord]:
        """Yield the last lines of a replica's console; with `follow`, then every new one until it ends.

        An ended replica can be read as long as its log is kept.

        Raises:
            KeyError: there is no such replica of this revision (raised at once, not while iterating).
        """
        return self._console(revision, replica).read(tail, follow=follow)

    def system_log(self, app: str, *, tail: int = 20, follow: bool = False) -> AsyncIterator[SystemRecord]:
        """Yield the last events of an app; with `follow`, then every new one until the app is removed.

        Raises:
            KeyError: there is no such app (raised at once, not while iterating).
        """
        return self._apps[app].log.read(tail, follow=follow)

    async def emit(self, app: str, revision: str, reason: str, message: str) -> None:
        """Write an event of the caller to an app's system log, such as ContainerAppUpdate."""
        await self._app(app).log.append(
            [SystemRecord(utc_now(), "Normal", app, revision, "", reason, message)]
        )

    def _app(self, name: str) -> _App:
        if name not in self._apps:
            directory = self._directory_of(name)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            log = system_log(directory / "system.log", self._limits.log_bytes)
            self._apps[name] = _App(name, log)
        return self._apps[name]

    def _find(self, revision: str) -> Revision | None:
        for app in self._apps.values():
            if revision in app.revisions:
                return app.revisions[revision]
        return None

    def _active(self, revision: str) -> Revision:
        found = self._find(revision)
        if found is None or not found.is_active:
            raise RevisionNotActiveError(f"revision '{revision}' is not active: activate it first")
        return found

    def _new_revision(self, app: _App, spec: RevisionSpec) -> Revision:
        async def emit(replica: str, reason: str, message: str, kind: EventType, count: int) -> None:
            record = SystemRecord(utc_now(), kind, app.name, spec.revision, replica, reason, message, count)
            await app.log.append([record])

        async def announce(reason: str, message: str) -> None:
            await self._announce(spec, reason, message)

        return Revision(spec, self._context(self._replicas_of(app.name), emit), announce)

    def _context(self, directory: Path, emit: Emit) -> ReplicaContext:
        return ReplicaContext(
            directory=directory,
            session=self._open_session(),
            mounts=self._mounts,
            limits=self._limits,
            emit=emit,
            ports=self._ports,
        )

    async def _announce(self, spec: RevisionSpec, reason: str, message: str) -> None:
        await self.emit(spec.app, spec.revision, reason, message)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = new_session(self._limits)
        return self._session

    def _ports(self) -> set[int]:
        """Return the assigned ports; a slow server may not have bound its own yet."""
        ports = {app.port for app in self._apps.values()}
        for app in self._apps.values():
            for revision in app.revisions.values():
                ports |= {replica.port for replica in revision.replicas}
        return {port for port in ports if port is not None}

    def _console(self, revision: str, replica: str) -> Log[ConsoleRecord]:
        found = self._find(revision)
        for candidate in found.replicas if found is not None else ():
            if candidate.name == replica:
                return candidate.log
        # The name may come from a URL: only one of the right form may become a path.
        paths = self._state.glob(f"apps/*/replicas/{replica}") if _is_replica_of(replica, revision) else ()
        for path in paths:
            log = console_log(path / CONSOLE, self._limits.log_bytes)
            log.close()
            return log
        raise KeyError(replica)

    async def _end(self, app: _App) -> None:
        await asyncio.gather(*(self.stop(revision) for revision in tuple(app.revisions)))
        if app.ingress is not None:
            await self.stop_app_ingress(app.name)
        app.log.close()

    def _directory_of(self, app: str) -> Path:
        return self._state / "apps" / app

    def _replicas_of(self, app: str) -> Path:
        return self._directory_of(app) / "replicas"

    def _recover(self) -> tuple[str, ...]:
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        left = kill_orphans(self._state, self._limits.kill_s)
        self._mounts.sweep()
        return left

    async def _prune(self, app: str) -> None:
        """Remove the oldest logs of an app's ended replicas."""
        revisions = self._app(app).revisions.values()
        alive = {replica.name for revision in revisions for replica in revision.replicas}
        await asyncio.to_thread(remove_oldest, self._replicas_of(app), alive, self._limits.kept_logs)


def _is_replica_of(replica: str, revision: str) -> bool:
    return re.fullmatch(re.escape(revision) + r"-[0-9a-f]{9,10}-[a-z0-9]{5}", replica) is not None
