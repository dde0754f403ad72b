"""Send requests to Resource Manager over HTTPS, with a token that az gives.

What cannot be sent this way, because of a proxy or of certificates that only az knows, is left to az: then
`UnreachableError` is raised and nothing was changed.
"""

from __future__ import annotations

import configparser
import functools
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Final

from infra.az.errors import AzureRejectedError, NotFoundError, innermost_cause, is_not_found
from infra.document import Json, as_object, load_json, user_path
from infra.errors import RemoteError
from infra.network import FAILURES, make_opener, read_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from infra.az.direct import ArmRequest
    from infra.clock import Clock

ENDPOINTS: Final = {
    "AzureCloud": "https://management.azure.com",
    "AzureChinaCloud": "https://management.chinacloudapi.cn",
    "AzureUSGovernment": "https://management.usgovcloudapi.net",
}
"""Resource Manager of each of Azure's clouds. Source: azure-cli 2.91, `azure/cli/core/cloud.py`."""

_TIMEOUT_S: Final = 60.0
_PAUSES_S: Final = (1.0, 2.0, 4.0)
_TRANSIENT: Final = frozenset({429, 500, 502, 503, 504})
_UNAUTHORIZED: Final = 401
_MAX_PAGES: Final = 100


class UnreachableError(Exception):
    """Resource Manager that this process cannot reach, or no token: az has to run the command."""


class ResourceManager:
    """Resource Manager of one cloud. Safe to use from several threads.

    Args:
        endpoint: Its address.
        ca_bundle: The certificates to trust; None for the environment's, else the system's.
        get_token: Returns an access token for a subscription.
        clock: Waits between attempts.
    """

    def __init__(
        self, endpoint: str, ca_bundle: Path | None, get_token: Callable[[str], str], clock: Clock
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._get_token = get_token
        self._clock = clock
        self._tokens: dict[str, str] = {}
        self._tokens_lock = threading.Lock()
        self._ca_bundle = ca_bundle

    def send(self, subscription: str, request: ArmRequest, command: str) -> Json:
        """Send a request, and return its answer; the pages of a list are put together.

        Args:
            subscription: The subscription of the resource.
            request: The request.
            command: The az command that does the same, for messages.

        Raises:
            AzureRejectedError: Azure rejected it; `NotFoundError` if the resource does not exist.
            UnreachableError: Resource Manager cannot be reached from here, or az gives no token.
        """
        answer = self._send(subscription, request.method, f"{self._endpoint}{request.path}", command)
        pages, address = 1, self._next(answer)
        while address is not None and pages < _MAX_PAGES:
            page = self._send(subscription, "GET", address, command)
            values = [*_list(answer), *_list(page)]
            answer = {**as_object(answer), "value": values}
            pages, address = pages + 1, self._next(page)
        return answer

    def _next(self, answer: Json) -> str | None:
        """Return the address of a list's next page, if it is on the same endpoint: the token goes there."""
        address = as_object(answer).get("nextLink")
        is_ours = isinstance(address, str) and address.startswith(f"{self._endpoint}/")
        return address if is_ours and isinstance(address, str) else None

    def _send(self, subscription: str, method: str, address: str, command: str) -> Json:
        pauses = iter(_PAUSES_S)
        is_renewed = False
        while True:
            token = self._token(subscription)
            status, headers, body = self._open(method, address, token)
            if status < 400:  # noqa: PLR2004 - from here on, errors
                return load_json(body) if body.strip() else None
            if status == _UNAUTHORIZED and not is_renewed:
                is_renewed = True
                self._forget(subscription)
                continue
            pause_s = next(pauses, None) if status in _TRANSIENT else None
            if pause_s is None:
                raise _rejected(status, body, command)
            self._clock.sleep(_pause(headers, pause_s))

    @functools.cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        return make_opener(self._endpoint, self._ca_bundle)

    def _open(self, method: str, address: str, token: str) -> tuple[int, Mapping[str, str], bytes]:
        data = b"" if method == "POST" else None
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        # The address is the endpoint's: HTTPS, or a server on this machine.
        request = urllib.request.Request(address, data, headers, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), read_error(error)
        except FAILURES as error:
            raise UnreachableError(str(error)) from error

    def _token(self, subscription: str) -> str:
        with self._tokens_lock:
            if subscription not in self._tokens:
                self._tokens[subscription] = self._get_token(subscription)
            return self._tokens[subscription]

    def _forget(self, subscription: str) -> None:
        with self._tokens_lock:
            self._tokens.pop(subscription, None)


def config_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of az's own configuration."""
    return user_path(environment.get("AZURE_CONFIG_DIR") or "~/.azure")


def find_endpoint(environment: Mapping[str, str]) -> str | None:
    """Return the address of Resource Manager of the cloud that az uses; None for another cloud."""
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(config_folder(environment) / "config", encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return None
    return ENDPOINTS.get(settings.get("cloud", "name", fallback="AzureCloud"))


def _list(answer: Json) -> list[Json]:
    values = as_object(answer).get("value")
    return values if isinstance(values, list) else []


def _pause(headers: Mapping[str, str], pause_s: float) -> float:
    wanted = headers.get("Retry-After", "")
    return min(float(wanted), 30.0) if wanted.isdecimal() else pause_s


def _rejected(status: int, body: bytes, command: str) -> RemoteError:
    try:
        cause = innermost_cause(load_json(body))
    except ValueError:
        cause = None
    if cause is None:
        return RemoteError(f"Azure answered with HTTP {status}", command=command)
    if is_not_found(cause):
        return NotFoundError("the resource does not exist", cause, command=command)
    return AzureRejectedError("Azure rejected the request", cause, command=command)
