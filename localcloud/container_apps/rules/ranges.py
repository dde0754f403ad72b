"""Checks that more than one rule needs. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from localcloud.arm.resource_kinds import is_unknown
from localcloud.errors import AzureError, bad_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAX_PORT: Final = 65_535


def port_errors(value: Any, where: str) -> Iterator[AzureError]:  # noqa: ANN401 - JSON
    """Yield an error (`ContainerAppInvalidPort`) for a port that is none; `where` names the property."""
    if not is_within(value, 1, _MAX_PORT):
        message = f"{where} must be in the range of ['1', '{_MAX_PORT}'], not '{value}'."
        yield bad_request("ContainerAppInvalidPort", message)


def is_within(value: Any, low: int, high: int) -> bool:  # noqa: ANN401 - JSON
    """Return whether a value is a whole number from `low` to `high`, or not known yet."""
    if is_unknown(value):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def duplicates(names: Iterable[Any]) -> list[str]:
    """Return the names that occur more than once, in order, ignoring those that are missing."""
    return [str(name) for name, count in Counter(names).items() if count > 1 and name]


def template_error(field: str, value: object, reason: str) -> AzureError:
    """Return the error that the platform reports for a field of an app's template.

    Source: "InvalidParameterValueInContainerTemplate" as quoted in microsoft/azure-container-apps#1159 and,
    for names of containers, in microsoft/vscode-azurecontainerapps#19.
    """
    message = (
        f"The following field(s) are either invalid or missing. Field '{field}' is invalid with details: "
        f"'Invalid value: \"{value}\": {reason}';."
    )
    return bad_request("InvalidParameterValueInContainerTemplate", message)
