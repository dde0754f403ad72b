"""Print and change the API keys of a stage's app.

A change takes effect within seconds and restarts nothing. It is proven with requests to the server.
"""

from __future__ import annotations

import sys
import urllib.error
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from infra.clock import SystemClock
from infra.errors import UsageError, WaitTimeoutError
from infra.network import open_url
from infra.resources.api_keys import (
    SECRET_NAME,
    ApiKey,
    check_name,
    check_value,
    format_keys,
    keys_in,
    new_key,
    publish_keys,
    read_keys,
    require_keys,
)
from infra.resources.app_secrets import read_secrets, write_secrets
from infra.resources.file_share import open_share
from infra.wording import count, did_you_mean

if TYPE_CHECKING:
    from infra.clock import Clock
    from infra.session import Session

Action = Literal["add", "rotate", "remove"]

_ANSWERS: Final = 3
"""How many times in a row the server must show the change: each time another replica may respond."""

_WAIT_S: Final = 60.0
"""A server looks at the share every two seconds, and the share's own cache keeps an answer for up to 30 s."""

_PAUSE_S: Final = 1.0
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys of an app. The first is the one to hand out."""

    keys: tuple[ApiKey, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {"key": self.keys[0].value, "keys": {key.name: key.value for key in self.keys}}

    def to_text(self) -> str:
        """Return the first key alone, so that `$(invoke key)` expands to it."""
        return self.keys[0].value


@dataclass(frozen=True, slots=True)
class KeyNames:
    """The names of an app's keys, without the keys."""

    names: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {"names": list(self.names)}

    def to_text(self) -> str:
        """Return a line for each name."""
        return "\n".join(self.names)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A change of one key.

    Attributes:
        key: The key that was added, rotated or removed.
        names: The names of the keys that are valid now.
        is_proven: Whether the server was seen to apply the change; False if it does not run.
    """

    action: Action
    key: ApiKey
    names: tuple[str, ...]
    is_proven: bool

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints; a removed key is not shown."""
        shown = {} if self.action == "remove" else {"key": self.key.value}
        return {"action": self.action, "name": self.key.name, **shown, "names": list(self.names)}

    def to_text(self) -> str:
        """Return the new key alone, or a line that says which was removed."""
        if self.action == "remove":
            left = f"{count(len(self.names), 'key')} left: {', '.join(self.names)}"
            return f"removed the API key {self.key.name}; {left}"
        return self.key.value


def select_action(
    *, add: str | None, rotate: str | None, remove: str | None, lists: bool, has_value: bool
) -> tuple[Action, str] | None:
    """Return what the flags of the verb ask for and the key's name; None if nothing is to be changed.

    Raises:
        UsageError: They ask for several things at once, or give a key where none is made.
    """
    asked: dict[Action, str | None] = {"add": add, "rotate": rotate, "remove": remove}
    actions = [(action, name) for action, name in asked.items() if name is not None]
    if len(actions) + lists > 1:
        raise UsageError("only one of --add, --rotate, --remove and --list is possible at a time")
    action, name = actions[0] if actions else (None, "")
    if has_value and action not in {"add", "rotate"}:
        raise UsageError("--stdin gives the text of a key, so it needs --add NAME or --rotate NAME")
    return None if action is None else (action, name)


def find_keys(session: Session) -> ApiKeys:
    """Return the keys of a stage's app.

    Raises:
        UsageError: The stage is not provisioned, or its app requires no key.
    """
    config = session.config()
    session.require_cloud()
    app = config.aca_app_name
    return ApiKeys(require_keys(read_keys(session.az, session.group(), app), app))


def find_names(session: Session) -> KeyNames:
    """Return the names of the keys of a stage's app. Raises as `find_keys` does."""
    return KeyNames(tuple(key.name for key in find_keys(session).keys))


def change_key(
    session: Session, action: Action, name: str, value: str | None = None, clock: Clock | None = None
) -> KeyChange:
    """Add, rotate or remove a key.

    Args:
        session: The opened stage.
        action: What to do.
        name: The key's name.
        value: The text of the key; None for a new random one.
        clock: Measures the time.

    Raises:
        UsageError: The name cannot be used, or the stage is not provisioned. Nothing was changed.
        RemoteError: Azure rejects the change.
        WaitTimeoutError: The change is made, but the server does not apply it.
    """
    check_name(name)
    if value is not None:
        check_value(value)
    config, group = session.config(), session.group()
    session.require_cloud()
    secrets = read_secrets(session.az, group, config.aca_app_name)
    before = require_keys(keys_in(secrets.get(SECRET_NAME, {}), config.aca_app_name), config.aca_app_name)
    after, key = changed_keys(before, action, ApiKey(name, value or new_key()))
    secrets[SECRET_NAME] = {"value": format_keys(after)}
    with session.console.step(f"{action} the API key {name}") as step:
        write_secrets(session, group, config.aca_app_name, secrets)
        with open_share(session) as share:
            publish_keys(share, before, after)
        is_proven = _prove(session, before, after, clock or SystemClock())
        step.finish("the server applies it" if is_proven else "applies when the server runs")
    return KeyChange(action, key, tuple(each.name for each in after), is_proven)


def changed_keys(
    before: tuple[ApiKey, ...], action: Action, key: ApiKey
) -> tuple[tuple[ApiKey, ...], ApiKey]:
    """Return the keys after a change, and the key that it is about.

    Raises:
        UsageError: There is no such key, there is one already, or it is the last.
    """
    names = [each.name for each in before]
    if action == "add":
        if key.name in names:
            what = f"there is an API key named {key.name!r} already"
            raise UsageError(what, hint=f"invoke key --rotate {key.name} replaces it")
        return (*before, key), key
    if key.name not in names:
        what = f"there is no API key named {key.name!r}{did_you_mean(key.name, names)}"
        raise UsageError(what, hint=f"there are {', '.join(names)}")
    if action == "rotate":
        return tuple(key if each.name == key.name else each for each in before), key
    if len(before) == 1:
        what = f"{key.name!r} is the only API key, and without one nobody could call the server"
        raise UsageError(what, hint=f"invoke key --rotate {key.name} replaces it")
    removed = before[names.index(key.name)]
    return tuple(each for each in before if each != removed), removed


def read_value() -> str:
    """Read the text of a key from standard input: the first line."""
    return sys.stdin.readline().strip()


def _prove(session: Session, before: tuple[ApiKey, ...], after: tuple[ApiKey, ...], clock: Clock) -> bool:
    """Wait until the server accepts the new keys and rejects the old ones. Return False if it does not run.

    Raises:
        WaitTimeoutError: It runs, and does neither in time.
    """
    url = f"{session.config().endpoint_url}/v1/models"
    deadline_s, in_a_row = clock.elapsed_s() + _WAIT_S, 0
    while True:
        is_applied = _is_applied(url, before, after)
        if is_applied is None:
            return False
        in_a_row = in_a_row + 1 if is_applied else 0
        if in_a_row == _ANSWERS:
            return True
        if clock.elapsed_s() > deadline_s:
            raise WaitTimeoutError(
                "the keys are changed, but the running server does not apply the change",
                hint="a release from before this was possible applies it after invoke deploy --force",
            )
        clock.sleep(_PAUSE_S)


def _is_applied(url: str, before: tuple[ApiKey, ...], after: tuple[ApiKey, ...]) -> bool | None:
    """Return whether the server accepts all new keys and rejects all old ones; None if it does not answer."""
    new = [_accepts(url, key.value) for key in after if key not in before]
    old = [_accepts(url, key.value) for key in before if key not in after]
    return None if None in (*new, *old) else all(new) and not any(old)


def _accepts(url: str, key: str) -> bool | None:
    """Return whether the server accepts a key; None if it does not answer."""
    try:
        with open_url(url, timeout_s=_TIMEOUT_S, headers={"Authorization": f"Bearer {key}"}):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return False if error.code == 401 else None  # noqa: PLR2004  # Unauthorized
    except OSError:
        return None
