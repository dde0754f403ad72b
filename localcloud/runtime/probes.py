"""Startup, readiness and liveness probes, as in Kubernetes: HTTP or TCP, with thresholds.

`ThresholdCounter` is pure: it turns results into a verdict. `send` does the network I/O.

Source: Kubernetes documentation, "Configure Liveness, Readiness and Startup Probes"; Azure Container Apps
documentation, "Health probes in Azure Container Apps" (success is 200 to 399; HTTP and TCP only).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from localcloud.runtime.spec import Container, Probe, ProbeKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_OK: Final = range(200, 400)
_PROBE_NAMES: Final[dict[ProbeKind, str]] = {
    "Startup": "StartUp",
    "Liveness": "Liveness",
    "Readiness": "Readiness",
}


@dataclass(slots=True)
class ThresholdCounter:
    """The consecutive results of one probe, and the verdict that its thresholds give.

    The verdict is None until a threshold is reached for the first time.
    """

    probe: Probe
    verdict: bool | None = None
    successes: int = 0
    failures: int = 0

    def add(self, *, success: bool) -> bool:
        """Count a result; return whether the verdict has changed."""
        self.successes = self.successes + 1 if success else 0
        self.failures = 0 if success else self.failures + 1
        before = self.verdict
        if self.successes >= self.probe.success_threshold:
            self.verdict = True
        elif self.failures >= self.probe.failure_threshold:
            self.verdict = False
        return self.verdict is not before


class Prober:
    """The sender of one probe, at its period, with its counter.

    Args:
        probe: What to send.
        port: The port of 127.0.0.1 to send it to.
        session: For HTTP probes.
        began: The container's start, on the event loop's clock; the initial delay counts from it.
        failed: Called with a description of a failure and the number of failures in a row.
    """

    def __init__(
        self,
        probe: Probe,
        port: int,
        session: aiohttp.ClientSession,
        began: float,
        failed: Callable[[str, int], Awaitable[None]],
    ) -> None:
        self._counter = ThresholdCounter(probe)
        self._port = port
        self._session = session
        self._next = began + probe.initial_delay_s
        self._failed = failed

    async def next_verdict(self) -> bool:
        """Probe until the verdict changes (at first: until there is one); return it."""
        while True:
            await self._pause()
            problem = await send(self._counter.probe, self._port, self._session)
            changed = self._counter.add(success=problem is None)
            if problem is not None:
                await self._failed(problem, self._counter.failures)
            if changed:
                return bool(self._counter.verdict)

    async def _pause(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(max(0, self._next - clock()))
        self._next = max(self._next, clock()) + self._counter.probe.period_s


def probes_of(container: Container, target_port: int | None) -> dict[ProbeKind, Probe]:
    """Return a container's probes by kind, or Azure's defaults if it has none and the app has an ingress.

    Source: "Health probes in Azure Container Apps", default configuration: startup and readiness over TCP to
    the target port, with these times. (The documented liveness default has no times, so there is none here:
    a process that ends is restarted anyway.)
    """
    if container.probes or target_port is None:
        return {probe.kind: probe for probe in container.probes}
    return {
        "Startup": Probe("Startup", None, target_port, 1, 1, 3, 240),
        "Readiness": Probe("Readiness", None, target_port, 3, 5, 5, 48),
    }


async def send(probe: Probe, port: int, session: aiohttp.ClientSession) -> str | None:
    """Send a probe to a port of 127.0.0.1; return None for success, otherwise what went wrong."""
    try:
        async with asyncio.timeout(probe.timeout_s):
            problem = await (_connect(port) if probe.path is None else _get(probe, port, session))
    except TimeoutError:
        problem = f"timeout in {probe.timeout_s:g} seconds"
    except ConnectionRefusedError:
        problem = "connection refused"
    except (OSError, aiohttp.ClientError) as error:
        problem = str(error) or type(error).__name__
    return None if problem is None else f"Probe of {_PROBE_NAMES[probe.kind]} failed with {problem}"


async def _get(probe: Probe, port: int, session: aiohttp.ClientSession) -> str | None:
    url = f"http://127.0.0.1:{port}/{(probe.path or '').removeprefix('/')}"
    headers = {"User-Agent": "fjarr-probe/1", **dict(probe.headers)}
    try:
        # As in Kubernetes, a redirect is a success; following it would probe something else.
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            return None if response.status in _OK else f"status code: {response.status}"
    except aiohttp.ClientConnectorError as error:
        raise error.os_error from error


async def _connect(port: int) -> str | None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    return None
