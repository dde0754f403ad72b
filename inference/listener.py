"""The listening socket of the server. Imports the standard library only."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from inference.settings import Settings

BACKLOG: Final = 2048


def bind(settings: Settings) -> socket.socket:
    """Return a socket that listens on the settings' address."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(BACKLOG)
    return listener


def inherit_or_bind(settings: Settings) -> socket.socket:
    """Return the listening socket that `inference.start` has passed on, or a new one if there is none."""
    if settings.socket_fd is None:
        return bind(settings)
    return socket.socket(fileno=settings.socket_fd)
