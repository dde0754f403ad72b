"""The engine's process: load the models, and serve them to the server's process on a Unix socket.

Run as `python3 -m inference.engine_process`, which the supervisor does, with the socket's path in
`FJARR_ENGINE_SOCKET`. The socket answers from the first moment, with the progress of the start. Exit codes: 0
after a signal, 1 if the models cannot be loaded or the engine has died (the reason is at the end of the log),
2 if the settings cannot be used.
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
from typing import TYPE_CHECKING, Final, NoReturn

from inference.api_keys import ADMIN_KEY_VARIABLE, API_KEYS_VARIABLE
from inference.engines.catalogue import find_engine
from inference.engines.remote.handshake import EngineStatus
from inference.engines.remote.host import EngineHost
from inference.engines.remote.messages import Description, describe_model
from inference.errors import LoadError, SettingsError
from inference.observability.logs import log_unusable, set_up_logging
from inference.settings import Settings, load_settings
from inference.startup import SWITCH_INTERVAL_S, prepare_engine, set_library_defaults

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from inference.startup import ReadyEngine

LOGGER: Final = logging.getLogger("inference.engine_process")

KEY_VARIABLES: Final = (API_KEYS_VARIABLE, ADMIN_KEY_VARIABLE)
CLOSE_TIMEOUT_S: Final = 15.0
PARENT_POLL_S: Final = 1.0
FORCED_CLOSE_TIMEOUT_S: Final = 0.5
"""How long the engine may take to close after the second signal."""


def main() -> NoReturn:
    """Serve until a signal. Never returns."""
    set_up_logging()
    try:
        settings, path = load_engine_settings(os.environ)
    except SettingsError as error:
        log_unusable(LOGGER, error)
        sys.exit(error.exit_code)
    for variable in KEY_VARIABLES:
        os.environ.pop(variable, None)
    set_up_logging(settings.log_format, settings.log_level)
    set_library_defaults()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    exit_code = asyncio.run(EngineProcess(settings, path).run())
    logging.shutdown()
    # The processes of an engine that was still starting would outlive this one.
    for process in multiprocessing.active_children():
        process.kill()
    # A loading thread cannot be interrupted: a normal exit would wait for it, or crash in it.
    os._exit(exit_code)


def load_engine_settings(environ: Mapping[str, str]) -> tuple[Settings, Path]:
    """Read the environment, and return the settings with the socket's path.

    The engine knows no API keys: it needs none, whatever the environment says about them.

    Raises:
        SettingsError: With every unknown name and every bad value.
    """
    keyless = {name: value for name, value in environ.items() if name not in KEY_VARIABLES}
    settings = load_settings(keyless | {"FJARR_AUTH": "off", "FJARR_CHAT_SIGN_IN": "off"})
    if settings.engine_socket is None:
        raise SettingsError(("FJARR_ENGINE_SOCKET: it is empty; the engine process listens there",))
    return settings, settings.engine_socket


class EngineProcess:
    """The engine's process, from its socket to its exit code.

    Args:
        settings: The settings.
        path: The socket's path.
    """

    def __init__(self, settings: Settings, path: Path) -> None:
        self._settings = settings
        self._host = EngineHost(path, settings.release)
        self._ready: ReadyEngine | None = None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Serve, and return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._handle_signal)
        try:
            await self._host.open()
        except LoadError as error:
            LOGGER.error("cannot serve: %s", error)  # noqa: TRY400 - the reason says it all
            return error.exit_code
        work = asyncio.create_task(self._load_and_serve())
        watching = asyncio.create_task(self._watch_parent(os.getppid()))
        await self._stop.wait()
        watching.cancel()
        if self._exit_code == 0:
            await self._drain()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await self._close()
        if self._exit_code == 0:
            LOGGER.info("stopped")
        return self._exit_code

    def _handle_signal(self) -> None:
        """Drain and stop at the first signal; stop at once at the second."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def _watch_parent(self, parent: int) -> None:
        """Stop when the parent process has ended: this one would keep the device's memory for ever."""
        while os.getppid() == parent:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(PARENT_POLL_S)
        LOGGER.error("the process that started this one has ended")
        self._stop.set()

    async def _load_and_serve(self) -> None:
        """Load the models and serve them, until the engine is dead. An error stops the process."""
        started = time.monotonic()
        loop = asyncio.get_running_loop()

        def report(phase: str, percent: int) -> None:
            """Report from any thread."""
            loop.call_soon_threadsafe(self._host.report, phase, percent)

        try:
            ready = self._ready = await prepare_engine(self._settings, report)
        except LoadError as error:
            self._fail(f"cannot serve: {error}", error.exit_code)
            return
        except Exception as error:
            LOGGER.exception("the engine failed to start")
            self._fail(f"cannot serve: {error!r}; see the traceback in the log", 1)
            return
        if self._stop.is_set():
            return
        # What the loading threads have reported comes before.
        await asyncio.sleep(0)
        self._host.begin_serving(ready.engine, describe(ready, self._settings))
        names = ", ".join(model.name for model in ready.models)
        LOGGER.info("the engine is ready after %.1f s: %s", time.monotonic() - started, names)
        await self._host.wait_for_death()
        self._fail("the engine has died; the reason is above", 1)

    def _fail(self, reason: str, exit_code: int) -> None:
        LOGGER.error("%s", reason)
        self._host.set_status(EngineStatus("failed", reason=reason))
        self._exit_code = exit_code
        self._stop.set()

    async def _drain(self) -> None:
        draining = asyncio.create_task(self._host.drain(self._settings.drain_grace_s))
        stopping = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait((draining, stopping), return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        stopping.cancel()
        if cut_off := self._host.count_requests():
            reason = "a second signal came" if self._stop_now.is_set() else "the grace is over"
            LOGGER.warning("%s: %d requests are cut off", reason, cut_off)

    async def _close(self) -> None:
        if self._ready is not None:
            timeout_s = FORCED_CLOSE_TIMEOUT_S if self._stop_now.is_set() else CLOSE_TIMEOUT_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.engine.close(), timeout_s)
        # Afterwards: servers still get the errors of requests that were cut off.
        await self._host.close()


def describe(ready: ReadyEngine, settings: Settings) -> Description:
    """Return the description of an engine for servers."""
    engine, cost = ready.engine, ready.step_cost
    return Description(
        engine=find_engine(settings.engine, settings.device),
        models=tuple(describe_model(engine, model) for model in ready.models),
        failed_adapters=dict(ready.failed_adapters),
        abilities=engine.abilities,
        cache_tokens=engine.cache_tokens,
        max_batch=ready.max_batch,
        step_cost=None if cost is None else (cost.fixed_s, cost.row_s),
    )


if __name__ == "__main__":
    main()
