"""Checks of numbers that more than one rule needs. Pure."""

from __future__ import annotations

from typing import Any, Final

from localcloud.errors import bad_request

_MAX_PORT: Final = 65_535


def check_port(value: Any, where: str) -> None:  # noqa: ANN401 - JSON
    """Reject (400 `ContainerAppInvalidPort`) a port that is none; `where` names the property."""
    if not is_within(value, 1, _MAX_PORT):
        message = f"{where} must be in the range of ['1', '{_MAX_PORT}'], not '{value}'."
        raise bad_request("ContainerAppInvalidPort", message)


def is_within(value: Any, low: int, high: int) -> bool:  # noqa: ANN401 - JSON
    """Return whether a value is a whole number from `low` to `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
