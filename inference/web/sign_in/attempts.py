"""Limit how often a key may be guessed in the sign-in form.

Wrong attempts are counted for each client address, and for all together, since the address is only as true as
the proxy in front of the server makes it. While a limit is reached, right keys are rejected too: an answer
that depends on the key would be an attempt.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ADDRESSES: Final = 4096
"""How many addresses are remembered; the one that was seen longest ago is forgotten first."""

IPV6_PREFIX: Final = 64
"""A single client usually has this many bits of an IPv6 address fixed, and the others to itself."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many wrong attempts are accepted at once, and how many seconds later another one is."""

    burst: int
    seconds_each: float


ADDRESS_RATE: Final = Rate(5, 30.0)
TOTAL_RATE: Final = Rate(100, 1.0)


class AttemptLimiter:
    """The wrong attempts of the recent past.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = _Bucket(TOTAL_RATE, clock())
        self._addresses: OrderedDict[str, _Bucket] = OrderedDict()

    def begin(self, address: str) -> float:
        """Count an attempt, and return 0; or return after how many seconds one is accepted again.

        Every attempt counts as wrong until `forgive` is called, so attempts at the same time count, too.
        """
        now = self._clock()
        bucket = self._addresses.setdefault(address, _Bucket(ADDRESS_RATE, now))
        self._addresses.move_to_end(address)
        if len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        wait_s = max(bucket.wait_s(now), self._total.wait_s(now))
        if wait_s == 0.0:
            bucket.take()
            self._total.take()
        return wait_s

    def forgive(self, address: str) -> None:
        """Forget the attempts of an address that signed in, the last one also in the total."""
        self._addresses.pop(address, None)
        self._total.give_back()


def client_address(text: str) -> str:
    """Return what to count a client's attempts under: the address without a port, or an IPv6 network."""
    host = text.rpartition(":")[0].strip("[]") if text.count(":") == 1 or text.startswith("[") else text
    try:
        address = ip_address(host)
    except ValueError:
        return text[:64]
    if isinstance(address, IPv6Address):
        return str(ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


class _Bucket:
    """A token bucket, counted in seconds: an attempt costs `seconds_each`, and a second earns one.

    `wait_s` brings it up to date, and comes before the others.
    """

    def __init__(self, rate: Rate, now: float) -> None:
        self._cost_s = rate.seconds_each
        self._capacity_s = rate.burst * rate.seconds_each
        self._saved_s = self._capacity_s
        self._updated_at = now

    def wait_s(self, now: float) -> float:
        self._saved_s = min(self._saved_s + now - self._updated_at, self._capacity_s)
        self._updated_at = now
        return max(0.0, self._cost_s - self._saved_s)

    def take(self) -> None:
        self._saved_s -= self._cost_s

    def give_back(self) -> None:
        self._saved_s = min(self._saved_s + self._cost_s, self._capacity_s)
