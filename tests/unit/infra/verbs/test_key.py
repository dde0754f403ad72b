"""Where `invoke key` finds the keys, and how it changes them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from inference.api_keys import digest_of, parse_api_keys, parse_changed_keys
from infra.clock import ManualClock
from infra.config.endpoint import write_config
from infra.errors import UsageError, WaitTimeoutError
from infra.resources.api_keys import KEYS_FILE, ApiKey
from infra.verbs.key import change_key, changed_keys, find_keys, find_names, select_action
from infra.verbs.open import open_page
from tests.doubles.azure_stage import CONFIG
from tests.doubles.memory_share import MemoryShare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.process import Command
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz

ONE, TWO = ApiKey("default", "one"), ApiKey("bob", "two")


class KeyServer:
    """A server that accepts the keys of the file on the share, as ours does."""

    def __init__(self, share: MemoryShare, configured: str) -> None:
        self.share = share
        self.configured = parse_api_keys(configured)
        self.follows = True

    def accepts(self, key: str) -> bool:
        keys, text = self.configured, self.share.files.get(KEYS_FILE)
        if self.follows and text is not None:
            keys = parse_changed_keys(text.decode()).apply_to(keys)
        return digest_of(key) in {each.digest for each in keys}

    @contextmanager
    def serve(self) -> Iterator[str]:
        accepts = self.accepts

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                key = str(self.headers["Authorization"]).removeprefix("Bearer ")
                self.send_response(200 if accepts(key) else 401)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> MemoryShare:
    made = MemoryShare()

    @contextmanager
    def opened(_: Session) -> Iterator[MemoryShare]:
        yield made

    monkeypatch.setattr("infra.verbs.key.open_share", opened)
    return made


@pytest.fixture
def patches(az: ScriptedAz) -> list[dict[str, Any]]:
    """Return the documents that are merged into the app, which has a key and another secret."""
    found: list[dict[str, Any]] = []

    def patch(command: Command) -> dict[str, Any]:
        path = Path(command.argv[-3].removeprefix("@"))
        assert path.stat().st_mode & 0o077 == 0
        found.append(json.loads(path.read_text()))
        return {}

    az.answers["containerapp secret list"] = [
        {"name": "api-key", "value": "one"},
        {"name": "theirs", "keyVaultUrl": "https://v/secrets/s", "identity": "system"},
    ]
    az.answers["resource patch"] = patch
    return found


def at(session: Session, address: str) -> Session:
    write_config(session.stage.config_path, replace(CONFIG, aca_app_endpoint=address))
    return session


def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


def test_the_key_is_read_from_the_app(session: Session, az: ScriptedAz) -> None:
    az.answers["containerapp secret list"] = [{"name": "api-key", "value": "abc"}, {"name": "other"}]
    keys = find_keys(session)
    assert keys.to_text() == "abc"
    assert keys.to_json() == {"key": "abc", "keys": {"default": "abc"}}
    assert find_names(session).to_text() == "default"
    assert az.lines[0].startswith("az containerapp secret list --name app --show-values")


@pytest.mark.parametrize("answer", [[], [{"name": "api-key"}], None])
def test_an_app_without_a_key(session: Session, az: ScriptedAz, answer: Any) -> None:
    az.answers["containerapp secret list"] = answer
    for verb in (find_keys, lambda session: change_key(session, "add", "bob")):
        with pytest.raises(UsageError) as caught:
            verb(session)
        assert str(caught.value) == (
            "error: the app 'app' has no API key\n"
            "hint: invoke provision makes one, unless environmentVariables sets FJARR_AUTH to off"
        )


def test_keys_in_a_key_vault_are_changed_there(session: Session, az: ScriptedAz) -> None:
    address = "https://v.vault.azure.net/secrets/keys"
    az.answers["containerapp secret list"] = [
        {"name": "api-key", "keyVaultUrl": address, "identity": "system"}
    ]
    for verb in (find_keys, lambda session: change_key(session, "rotate", "default")):
        with pytest.raises(UsageError, match="are in a Key Vault") as caught:
            verb(session)
        assert str(caught.value).endswith(f"--id {address}")


@pytest.mark.parametrize("verb", [find_keys, open_page])
def test_a_stopped_local_cloud_cannot_be_asked(session: Session, verb: Any) -> None:
    with pytest.raises(UsageError) as caught:
        verb(replace(session, is_connected=False))
    assert (
        str(caught.value)
        == "error: the local cloud of stage 'azure' is stopped\nhint: invoke up --stage azure"
    )


def test_an_added_key_is_in_the_app_and_on_the_share_and_the_server_accepts_it(
    session: Session, az: ScriptedAz, share: MemoryShare, patches: list[dict[str, Any]]
) -> None:
    server = KeyServer(share, "one")
    with server.serve() as address:
        change = change_key(at(session, address), "add", "bob", clock=clock())
        (patch,) = patches
        secrets = {each["name"]: each for each in patch["properties"]["configuration"]["secrets"]}
        assert secrets["api-key"]["value"] == f"default=one,bob={change.key.value}"
        assert secrets["theirs"] == {
            "name": "theirs",
            "keyVaultUrl": "https://v/secrets/s",
            "identity": "system",
        }
        assert change.is_proven
        assert server.accepts(change.to_text())
        assert server.accepts("one")
    assert not any("one" in line or change.key.value in line for line in az.lines)
    assert not list(session.stage.state_dir.glob("app.json"))
    assert change.key.value not in share.files[KEYS_FILE].decode()


def test_a_rotated_and_a_removed_key_open_nothing(
    session: Session, az: ScriptedAz, share: MemoryShare, patches: list[dict[str, Any]]
) -> None:
    server = KeyServer(share, "one")
    with server.serve() as address:
        rotated = change_key(at(session, address), "rotate", "default", "three", clock())
        assert (server.accepts("one"), server.accepts("three")) == (False, True)
        az.answers["containerapp secret list"] = [{"name": "api-key", "value": "default=three,bob=two"}]
        change_key(session, "add", "eve", "four", clock())
        az.answers["containerapp secret list"] = [{"name": "api-key", "value": "default=three,eve=four"}]
        removed = change_key(session, "remove", "eve", clock=clock())
        assert (server.accepts("four"), server.accepts("three")) == (False, True)
    assert rotated.to_json() == {"action": "rotate", "name": "default", "key": "three", "names": ["default"]}
    assert "four" not in str(removed.to_json())
    assert removed.to_text() == "removed the API key eve; 1 key left: default"
    assert len(patches) == 3


def test_without_a_running_server_the_change_is_made_and_not_proven(
    session: Session, share: MemoryShare, patches: list[dict[str, Any]]
) -> None:
    change = change_key(at(session, "http://127.0.0.1:9"), "add", "bob", "two", clock())
    assert not change.is_proven
    assert (len(patches), KEYS_FILE in share.files) == (1, True)


def test_a_server_that_does_not_apply_the_change(
    session: Session, share: MemoryShare, patches: list[dict[str, Any]]
) -> None:
    server = KeyServer(share, "one")
    server.follows = False
    with server.serve() as address, pytest.raises(WaitTimeoutError, match="does not apply the change"):
        change_key(at(session, address), "add", "bob", clock=clock())
    assert len(patches) == 1


@pytest.mark.parametrize(
    ("action", "name", "message", "hint"),
    [
        ("add", "bob", "there is an API key named 'bob' already", "invoke key --rotate bob replaces it"),
        ("rotate", "bop", "there is no API key named 'bop'; did you mean bob?", "there are default, bob"),
        ("remove", "eve", "there is no API key named 'eve'", "there are default, bob"),
    ],
)
def test_a_change_that_is_not_possible(action: Any, name: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        changed_keys((ONE, TWO), action, ApiKey(name, "x"))
    assert str(caught.value) == f"error: {message}\nhint: {hint}"


def test_the_last_key_is_not_removed() -> None:
    with pytest.raises(UsageError, match="the only API key"):
        changed_keys((ONE,), "remove", ONE)


def test_one_thing_at_a_time() -> None:
    none: Any = {"add": None, "rotate": None, "remove": None, "lists": False, "has_value": False}
    assert select_action(**none) is None
    assert select_action(**none | {"rotate": "bob", "has_value": True}) == ("rotate", "bob")
    for wrong in (
        {"add": "a", "remove": "b"},
        {"add": "a", "lists": True},
        {"remove": "a", "has_value": True},
    ):
        with pytest.raises(UsageError):
            select_action(**none | wrong)
