"""Free loopback ports, and the addresses that their processes listen on."""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

# Below the ephemeral ports of Linux (32768 and up) and macOS (49152 and up): an outgoing connection could
# take a replica's port before a slow server binds it, or the cloud's own between two starts.
_PORTS: Final = range(20000, 30000)
_TRIES: Final = 200


@dataclass(frozen=True, slots=True)
class Listener:
    """An address and port that a process listens on."""

    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        address = ipaddress.ip_address(self.address.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def free_port(taken: Iterable[int] = ()) -> int:
    """Return a free port of 127.0.0.1 that is not among those `taken`.

    Raises:
        OSError: no free port was found.
    """
    avoided = frozenset(taken)
    candidates = [port for port in _PORTS if port not in avoided]
    random.shuffle(candidates)
    for port in candidates[:_TRIES]:
        if is_free(port):
            return port
    raise OSError(errno.EADDRNOTAVAIL, f"no free port on 127.0.0.1 among {_PORTS.start}-{_PORTS.stop - 1}")


def is_free(port: int) -> bool:
    """Return whether a server could listen on a port, on 127.0.0.1 and on all addresses."""
    for address in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - tried, never listened on
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
            # As servers do, so that connections still in TIME_WAIT don't count.
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((address, port))
            except OSError:
                return False
    return True


def listeners(processes: Iterable[psutil.Process]) -> frozenset[Listener]:
    """Return the TCP addresses that processes listen on. Blocks: call it in a thread.

    Raises:
        PermissionError: only root may see them (macOS, for some processes).
    """
    found = set()
    for process in processes:
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied as error:
            raise PermissionError(f"the sockets of process {process.pid} may not be seen") from error
        found |= {
            Listener(connection.laddr.ip, connection.laddr.port)
            for connection in connections
            if connection.status == psutil.CONN_LISTEN
        }
    return frozenset(found)
