"""Opening a stage: when the local cloud is started, when az is signed in, and when nothing needs doing."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra import session as session_module
from infra.az.client import Az
from infra.config.stage import load_stage
from infra.console import Console
from infra.errors import ToolError, UsageError
from infra.process import Completed, Runner
from infra.session import cloud_command, cloud_state, open_session, read_cloud
from localcloud.runtime.sockets import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.process import Command

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "infra").mkdir()
    shutil.copy(REPOSITORY / "infra/stages.toml", tmp_path / "infra/stages.toml")
    return tmp_path


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def describe(root: Path, port: int, **changes: str) -> None:
    state = cloud_state(root, load_stage(root, "local"))
    state.mkdir(parents=True, exist_ok=True)
    descriptor = {
        "pid": 1,
        "resource_manager": f"https://127.0.0.1:{port}/",
        "ca_bundle": "/x/ca.pem",
        "tenant_id": "tenant",
        "client_id": "client",
        "client_secret": "hush",
        "subscription_id": "sub",
        "cloud_name": "Here",
        **changes,
    }
    (state / "cloud.json").write_text(json.dumps(descriptor))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, root: Path, listener: int) -> list[Command]:
    """Keep every command; `localcloud start` makes a cloud that answers, az answers what it must."""
    commands: list[Command] = []
    secrets: list[str] = []

    def run(_: Runner, command: Command) -> Completed:
        commands.append(command)
        if "start" in command.argv:
            describe(root, listener)
        if "login" in command.argv:
            (password,) = (each for each in command.argv if each.startswith("--password="))
            file = Path(password.removeprefix("--password=@"))
            secrets.append(file.read_text())
            assert file.stat().st_mode & 0o777 == 0o600
        return Completed(0, '{"azure-cli": "2.91.0"}', "")

    monkeypatch.setattr(Runner, "run", run)
    az = root / "az"
    az.touch()
    monkeypatch.setattr(Runner, "resolve", lambda _, command: (str(root / command.argv[0]),))
    return commands


def words(ran: list[Command]) -> list[str]:
    return [" ".join(command.argv[:3]) for command in ran]


VERSION = ["az version --output"]
SIGN_IN = ["az cloud register", "az cloud set", "az login --service-principal"]


def test_a_local_stage_is_started_and_signed_in_once(root: Path, ran: list[Command]) -> None:
    session = open_session(root, "local", Console(io.StringIO()))
    assert ran[0] == cloud_command(root, session.stage, "start")
    assert words(ran)[1:] == VERSION + SIGN_IN
    assert session.local_cloud is not None
    assert session.ca_bundle == Path("/x/ca.pem")
    assert "hush" not in repr(session.local_cloud)
    ran.clear()
    open_session(root, "local", Console(io.StringIO()))
    assert ran == []


def test_the_secret_is_on_no_command_line_and_does_not_stay(root: Path, ran: list[Command]) -> None:
    open_session(root, "local", Console(io.StringIO()))
    assert not [command for command in ran if "hush" in " ".join(command.argv)]
    kept = [path for path in (root / ".fjarr/local/azure").rglob("*") if path.is_file()]
    assert not [path for path in kept if "hush" in path.read_text()]


def test_another_cloud_is_signed_in_to_anew(root: Path, ran: list[Command], listener: int) -> None:
    open_session(root, "local", Console(io.StringIO()))
    ran.clear()
    describe(root, listener, client_secret="another")
    open_session(root, "local", Console(io.StringIO()))
    assert words(ran) == SIGN_IN


def test_a_running_local_cloud_can_be_stopped_without_az(
    root: Path, ran: list[Command], listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(root, listener)

    def resolve(_: Runner, command: Command) -> tuple[str, ...]:
        raise ToolError(f"{command.argv[0]} is not installed")

    monkeypatch.setattr(Runner, "resolve", resolve)
    session = open_session(root, "local", Console(io.StringIO()), start_cloud=False, needs_az=False)
    assert session.is_connected
    assert ran == []
    with pytest.raises(ToolError, match="az is not installed"):
        open_session(root, "local", Console(io.StringIO()), start_cloud=False)


def test_a_verb_that_only_looks_starts_nothing(root: Path, ran: list[Command]) -> None:
    session = open_session(root, "local", Console(io.StringIO()), start_cloud=False)
    assert ran == []
    assert not session.is_connected
    with pytest.raises(UsageError, match="is stopped"):
        session.require_cloud()


def test_a_descriptor_whose_cloud_is_gone_counts_for_nothing(root: Path) -> None:
    describe(root, free_port())
    assert read_cloud(cloud_state(root, load_stage(root, "local"))) is None


def test_a_cloud_that_starts_but_does_not_answer(
    root: Path, ran: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_is_listening", lambda _: False)
    with pytest.raises(ToolError, match="the local cloud was started but does not answer"):
        open_session(root, "local", Console(io.StringIO()))
    assert len(ran) == 1


def test_the_azure_stage_uses_the_users_own_az(root: Path, ran: list[Command]) -> None:
    session = open_session(root, "azure", Console(io.StringIO()))
    assert words(ran) == VERSION
    ran.clear()
    open_session(root, "azure", Console(io.StringIO()))
    assert ran == []
    assert (session.ca_bundle, session.local_cloud, session.is_connected) == (None, None, True)
    assert isinstance(session.az, Az)
    with pytest.raises(UsageError, match=r"inference\.config\.json does not exist"):
        session.group()


def test_az_finds_bicep_on_path_or_where_it_installed_it(
    root: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    session = open_session(root, "azure", Console(io.StringIO()), start_cloud=False)
    assert not session.has_bicep
    installed = own_home / ".azure/bin/bicep"
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert session.has_bicep


def test_a_local_stage_without_its_packages_names_the_command_that_installs_them(
    root: Path, ran: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LOCAL_PACKAGES", ("json", "no_such_package"))
    with pytest.raises(ToolError) as caught:
        open_session(root, "local", Console(io.StringIO()))
    assert str(caught.value) == (
        "error: the stage 'local' runs on this machine, and its packages are not installed: no_such_package\n"
        "hint: python3 install.py"
    )
    assert ran == []


def test_the_packages_of_a_local_stage_are_those_of_its_extra() -> None:
    path = REPOSITORY / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[=<>]", each)[0] for each in project["optional-dependencies"]["local"]}
    assert names.issuperset(session_module.LOCAL_PACKAGES)
