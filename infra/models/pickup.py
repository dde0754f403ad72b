"""Wait until a live server serves the adapters that the share's index lists, without a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from infra.az.revision import NoResponse, VersionResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.clock import Clock

PICKUP_TIMEOUT_S: Final = 120.0
"""A server reads the index once a second, and an adapter from the share in seconds."""

POLL_S: Final = 0.5


class VersionSource(Protocol):
    """Something that `/version` can be requested from."""

    def version(self) -> VersionResponse | NoResponse:
        """Request `/version`."""


def wait_until_applied(
    app: VersionSource, clock: Clock, generation: str, renew_lock: Callable[[], None]
) -> VersionResponse | None:
    """Poll `/version` until the server has applied an index, and return its response then.

    None if nothing serves, the server is of a release that reads no index, or it takes too long.
    """
    answer = app.version()
    if isinstance(answer, NoResponse) or not answer.is_ready or answer.adapter_generation is None:
        return None
    deadline_s = clock.elapsed_s() + PICKUP_TIMEOUT_S
    while isinstance(answer, NoResponse) or answer.adapter_generation != generation:
        if clock.elapsed_s() > deadline_s:
            return None
        clock.sleep(POLL_S)
        renew_lock()
        answer = app.version()
    return answer
