"""The server's process: serve at once, load the models in the background, drain on SIGTERM, exit.

With `FJARR_ENGINE_SOCKET`, the models are in the engine's process: see `engine_process` and `engine_link`.

Run as `python3 -m inference.server`, which `inference.start` does. Exit codes: 0 after a signal, 1 if the
model cannot be loaded (the reason is at the end of the log), 2 if the settings cannot be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import uvicorn

from inference import VERSION
from inference.api_keys import ADMIN_KEY_VARIABLE, API_KEYS_VARIABLE
from inference.control import SupervisorLink
from inference.errors import LoadError, SettingsError
from inference.imports import find_imports
from inference.listener import inherit_or_bind
from inference.observability.logs import log_unusable, set_up_logging
from inference.observability.tracing import FLUSH_S, Tracing, make_tracing
from inference.self_test import SelfTest
from inference.service.adapter_watch import AdapterWatch
from inference.service.adapters import Adapters
from inference.service.service import Service
from inference.settings import Settings, load_settings
from inference.startup import (
    SWITCH_INTERVAL_S,
    block_torch,
    find_capacity,
    in_thread,
    limits_of,
    prepare_engine,
    set_library_defaults,
)
from inference.web.access import MAX_HEADER_BYTES
from inference.web.application import ChatPage, Identity, make_application
from inference.web.forwarded import ForwardedHeaders
from inference.web.http_protocol import Protocol
from inference.web.key_changes import KeyChanges
from inference.web.keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from starlette.types import ASGIApp

    from inference.engines.protocol import Engine
    from inference.startup import ReadyEngine
    from inference.web.chat.gateway import Chat

LOGGER: Final = logging.getLogger("inference.server")

CONNECTION_GRACE_S: Final = 2
"""How long connections may stay open after the last answer. In practice only an open chat page's does."""

RETIREMENT_S: Final = 10.0
"""How long a server that was replaced waits for the next request on connections that are open."""

PROGRESS_INTERVAL_S: Final = 0.25

MODELS_INTERVAL_S: Final = 0.25
"""The interval at which a supervised server looks for models that have not been tested."""

FORCED_CLOSE_TIMEOUT_S: Final = 0.5
"""How long the engine may take to close after the second signal."""

STARTED_POLL_S: Final = 0.01
CONNECTIONS_POLL_S: Final = 0.1

KEEP_ALIVE_S: Final = 75
"""Longer than a proxy keeps an idle connection open: closing it first would race with the next request."""


def main() -> NoReturn:
    """Serve until a signal. Never returns."""
    given = frozenset(os.environ)
    set_up_logging()
    try:
        settings = load_settings(os.environ)
        # Child processes, such as an engine's workers, do not get the keys.
        for variable in (API_KEYS_VARIABLE, ADMIN_KEY_VARIABLE):
            os.environ.pop(variable, None)
        set_up_logging(settings.log_format, settings.log_level)
        tracing = make_tracing(settings, VERSION)
    except SettingsError as error:
        log_unusable(LOGGER, error)
        sys.exit(error.exit_code)
    set_library_defaults()
    if settings.engine_socket is not None:
        block_torch(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if settings.log_prompts:
        LOGGER.warning("FJARR_LOG_PROMPTS is on: prompts and answers are written to this log")
    exit_code = asyncio.run(ServerProcess(settings, tracing, given).run())
    logging.shutdown()
    # The processes of an engine that was still starting would outlive this one.
    for process in multiprocessing.active_children():
        process.kill()
    # A loading thread cannot be interrupted: a normal exit would wait for it, or crash in it.
    os._exit(exit_code)


class ServerProcess:
    """The server, from its socket to its exit code.

    Args:
        settings: The settings.
        tracing: Records traces; None if nothing does.
        given: The variables that the process was started with; None for all that there are now.
    """

    def __init__(
        self, settings: Settings, tracing: Tracing | None = None, given: Collection[str] | None = None
    ) -> None:
        self._settings = settings
        self._tracing = tracing
        self._given = os.environ.keys() if given is None else given
        self._service = Service(limits_of(settings))
        self._adapters = Adapters(self._service)
        self._chat_page = ChatPage(self._service)
        self._keyring = Keyring(settings.api_keys)
        started_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._link = SupervisorLink()
        self._identity = Identity(
            settings.release, settings.revision, settings.replica, started_at, lambda: self._link.state
        )
        self._began_s = time.monotonic()
        self._engine: Engine | None = None
        self._is_serving = asyncio.Event()
        self._is_tested = asyncio.Event()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._exit_code = 0
        self._signals = 0
        self._drain_grace_s = settings.drain_grace_s

    async def run(self) -> int:
        """Serve, and return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._handle_signal)
        await self._link.connect(self._settings.control_fd)
        self._service.holds_requests = self._link.holds_requests
        application = make_application(
            self._service,
            self._settings,
            self._identity,
            self._chat_page,
            self._tracing,
            keyring=self._keyring,
            adapters=self._adapters,
        )
        server = _UvicornServer(configure(application))
        serving = asyncio.create_task(self._accept(server))
        self_test = SelfTest(configure(application), lambda: self._service.models, self._keyring)
        work = asyncio.create_task(self._serve_models(self_test))
        retiring = asyncio.create_task(self._retire(server))
        changes = KeyChanges(self._settings.mount, self._settings.api_keys, self._keyring)
        following = asyncio.create_task(changes.follow())
        await self._stop.wait()
        await self._drain()
        work.cancel()
        following.cancel()
        retiring.cancel()
        # Before the connections: a request that is cut off still sends its client an error.
        await self._close_engine()
        server.should_exit = True
        server.force_exit = self._stop_now.is_set()
        if not self._link.may_accept.is_set():
            serving.cancel()
        await asyncio.gather(serving, work, following, retiring, return_exceptions=True)
        await self._flush_traces()
        if self._exit_code == 0:
            LOGGER.info("stopped")
        return self._exit_code

    async def _accept(self, server: _UvicornServer) -> None:
        """Accept connections as soon as the supervisor allows it: another server may still do so."""
        await self._link.may_accept.wait()
        serving = asyncio.create_task(server.serve([inherit_or_bind(self._settings)]))
        await server.until_started()
        self._link.send(accepting=True)
        await serving

    async def _retire(self, server: _UvicornServer) -> None:
        """When another server has taken over: accept nothing more, complete what has begun, and stop."""
        await self._link.is_retired.wait()
        self._drain_grace_s = self._settings.request_timeout_s
        await server.stop_accepting(RETIREMENT_S)
        self._stop.set()

    def _handle_signal(self) -> None:
        """Drain and stop at the first signal; stop at once at the second.

        A server that was replaced drains already, for longer than the container may take to end.
        """
        self._signals += 1
        if self._signals > 1:
            self._stop_now.set()
        elif self._stop.is_set():
            asyncio.get_running_loop().call_later(self._settings.drain_grace_s, self._stop_now.set)
        self._stop.set()

    async def _serve_models(self, self_test: SelfTest) -> None:
        """Serve the models and the chat page until cancelled. An error stops the process."""
        path, settings = self._settings.engine_socket, self._settings
        watch = AdapterWatch(settings.mount, settings.adapter, self._service, self._adapters)
        reporting = asyncio.create_task(self._report_progress())
        try:
            await watch.begin()
            serving = self._load() if path is None else self._follow(path)
            await asyncio.gather(
                serving, self._run_chat(self_test), watch.run(), self._report_answers(self_test)
            )
        except LoadError as error:
            self._fail(f"cannot serve: {error}", error.exit_code)
        except Exception as error:
            LOGGER.exception("the server failed to start")
            self._fail(f"cannot serve: {type(error).__name__}: {error}", 1)
        finally:
            reporting.cancel()

    async def _report_progress(self) -> None:
        """Report the progress of the start to the supervisor, a few times in a second."""
        while True:
            self._link.send(phase=self._service.phase, percent=self._service.percent)
            await asyncio.sleep(PROGRESS_INTERVAL_S)

    async def _report_answers(self, self_test: SelfTest) -> None:
        """Report to the supervisor how each model answers, and test those that are served later."""
        if not self._link.is_supervised:
            return
        self._link.send(answers={})
        await self._is_tested.wait()
        self._link.send(answers=self_test.answers)
        while True:
            if self_test.is_due:
                self._link.send(answers=await self_test.run())
            await asyncio.sleep(MODELS_INTERVAL_S)

    def _fail(self, reason: str, exit_code: int) -> None:
        LOGGER.error("%s", reason)
        self._link.send(failed=reason)
        self._exit_code = exit_code
        self._stop.set()

    async def _load(self) -> None:
        """Load the models in this process."""
        self._begin_serving(await prepare_engine(self._settings, self._service.report))

    async def _follow(self, path: Path) -> None:
        """Serve the models of the engine's process, and those of its successor when it has ended."""
        from inference.engine_link import follow_engine  # noqa: PLC0415 - only this way needs its messages

        self._service.is_engine_replaced = True
        async for ready in follow_engine(path, self._settings, self._service.report):
            if ready is None:
                self._service.stop_serving()
            else:
                self._begin_serving(ready)

    def _begin_serving(self, ready: ReadyEngine) -> None:
        names = ", ".join(model.name for model in ready.models)
        if ready.engine is self._engine:
            # It serves other adapters than before, added or removed by any server.
            self._service.begin_serving(ready.engine, ready.models, None, ready.failed_adapters)
            LOGGER.info("serving %s", names)
            return
        self._engine = ready.engine
        capacity = find_capacity(ready, self._settings)
        LOGGER.info("%s", capacity.reason)
        if capacity.warning is not None:
            LOGGER.warning("%s", capacity.warning)
        self._service.begin_serving(ready.engine, ready.models, capacity, ready.failed_adapters)
        LOGGER.info("ready after %.1f s: serving %s", time.monotonic() - self._began_s, names)
        self._link.send(engine_ready=True)
        self._is_serving.set()

    async def _run_chat(self, self_test: SelfTest) -> None:
        """Serve the chat page once there are models. It asks which ones there are whenever it is opened."""
        if self._settings.engine_socket is None:
            # The import takes seconds, and would delay the loading in this process.
            await self._is_serving.wait()
        chat, _ = await asyncio.gather(in_thread(self._make_chat), self._require_answers(self_test))
        async with chat.lifespan():
            self._chat_page.application = chat
            LOGGER.info("the chat page is up")
            self._link.send(ready=True)
            self._report_imports()
            await asyncio.Event().wait()

    async def _require_answers(self, self_test: SelfTest) -> None:
        """Wait until there are models and each has answered a completion over HTTP.

        Raises:
            LoadError: If one does not answer.
        """
        await self._is_serving.wait()
        began_s = time.monotonic()
        answers = await self_test.run()
        for reason in filter(None, answers.values()):
            raise LoadError(reason)
        LOGGER.info("each model has answered a completion, in %.1f s", time.monotonic() - began_s)
        self._is_tested.set()

    def _report_imports(self) -> None:
        """Report what this process has imported, so that the supervisor can start the next one sooner."""
        environ = {name: value for name, value in os.environ.items() if name not in self._given}
        for message in find_imports(sys.modules, Path.cwd(), environ).messages():
            self._link.send(imports=message)

    def _make_chat(self) -> Chat:
        from inference.web.chat.page import make_chat, make_site  # noqa: PLC0415 - it imports Gradio

        return make_chat(self._service, make_site(self._settings))

    async def _drain(self) -> None:
        self._service.begin_draining()
        queue = self._service.queue
        if queue.slots_in_use or queue.waiting:
            LOGGER.info("stopping: %d requests are in flight, %d wait", queue.slots_in_use, queue.waiting)
        waits = (asyncio.create_task(queue.wait_until_idle()), asyncio.create_task(self._stop_now.wait()))
        await asyncio.wait(waits, timeout=self._drain_grace_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if queue.slots_in_use:
            reason = "a second signal came" if self._signals > 1 else "the grace is over"
            LOGGER.warning("%s: %d requests are cut off", reason, queue.slots_in_use)

    async def _close_engine(self) -> None:
        if self._engine is not None:
            timeout_s = FORCED_CLOSE_TIMEOUT_S if self._stop_now.is_set() else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._engine.close(), timeout_s)

    async def _flush_traces(self) -> None:
        if self._tracing is not None and not self._stop_now.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(in_thread(self._tracing.close), FLUSH_S)


def configure(application: ASGIApp) -> uvicorn.Config:
    """Return uvicorn's configuration for the application."""
    return uvicorn.Config(
        # TLS ends at the ingress; the chat needs the browser's scheme, the sign-in the client's address.
        ForwardedHeaders(application),
        lifespan="off",
        log_config=None,
        access_log=False,
        http=Protocol,
        # Nothing here uses WebSockets, which uvicorn enables if a library for them is installed.
        ws="none",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CONNECTION_GRACE_S,
        proxy_headers=False,
    )


class _UvicornServer(uvicorn.Server):
    async def until_started(self) -> None:
        """Wait until connections are accepted."""
        while not self.started:  # noqa: ASYNC110 - uvicorn has nothing to wait for
            await asyncio.sleep(STARTED_POLL_S)

    async def stop_accepting(self, linger_s: float) -> None:
        """Stop accepting, and let each open connection end with its next response.

        Closing an idle connection could cross with a request that is on its way, so clients get some time to
        send it: it is answered, with `Connection: close`.

        Args:
            linger_s: How long to wait for the connections to end.
        """
        for server in self.servers:
            server.close()
        self.config.encoded_headers.append((b"connection", b"close"))
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(linger_s):
                while self.server_state.connections:  # noqa: ASYNC110 - see above
                    await asyncio.sleep(CONNECTIONS_POLL_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `ServerProcess`, which drains first and exits with 0."""
        yield


if __name__ == "__main__":
    main()
