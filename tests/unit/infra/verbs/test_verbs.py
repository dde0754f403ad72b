"""status, key, open, down, doctor and up: what they ask, what they say, and with which exit code they end."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import webbrowser
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from invoke import Collection

import tasks
from infra.az.commands import Group
from infra.az.errors import ErrorCause, NotFoundError
from infra.config.endpoint import InferenceConfig, write_config
from infra.config.stage import load_stage
from infra.console import Console
from infra.errors import ToolError, UsageError
from infra.process import Completed, Runner
from infra.resources.api_keys import ApiKey, parse_keys
from infra.resources.file_share import open_share
from infra.resources.inventory import ManagedResource, format_tag, record_managed
from infra.session import Session
from infra.verbs.doctor import Diagnosis, diagnose
from infra.verbs.down import down
from infra.verbs.key import ApiKeys, find_keys
from infra.verbs.open import open_page
from infra.verbs.status import find_status
from infra.verbs.up import UpResult, curl_line, openai_snippet
from tests.doubles.scripted_az import ScriptedAz

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.process import Command

REPOSITORY = Path(__file__).resolve().parents[4]
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
GROUP = Group(SUBSCRIPTION, "my-rg")
CONFIG = InferenceConfig(SUBSCRIPTION, "my-rg", "acct", "share", "app", "http://127.0.0.1:9")
GONE = NotFoundError("the resource does not exist", ErrorCause("ResourceNotFound", "no"))
VERSION = {
    "release": "20260102T030405Z-abcdef01",
    "version": "0.1.0",
    "revision": "app--1",
    "replica": "app--1-aaa-bbb",
    "base_model": "org/base",
    "adapters": ["tuned"],
    "ready": True,
}


@pytest.fixture
def az(tmp_path: Path) -> ScriptedAz:
    return ScriptedAz({}, tmp_path)


@pytest.fixture
def session(tmp_path: Path, az: ScriptedAz) -> Session:
    (tmp_path / "infra/provision").mkdir(parents=True)
    shutil.copy(REPOSITORY / "infra/stages.toml", tmp_path / "infra/stages.toml")
    shutil.copy(REPOSITORY / "infra/provision/inference.json", tmp_path / "infra/provision/inference.json")
    write_config(tmp_path / "infra/inference.config.json", CONFIG)
    stage = load_stage(tmp_path, "azure")
    return Session(tmp_path, stage, Console(io.StringIO()), Runner({}, tmp_path), az, None, None)


def output(session: Session) -> str:
    stream = session.console._rich.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


@contextmanager
def server(body: Any, status: int = 200) -> Iterator[str]:
    """Serve one answer at every path, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            payload = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the base class's name
            del format, arguments

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def serve_at(session: Session, endpoint: str) -> None:
    write_config(session.stage.config_path, replace(CONFIG, aca_app_endpoint=endpoint))


# status

REVISIONS = [
    {"name": "app--0", "properties": {"createdTime": "2026-01-01T00:00:00+00:00", "runningState": "Stopped"}},
    {"name": "app--1", "properties": {"createdTime": "2026-01-02T00:00:00+00:00", "runningState": "Running"}},
]
REPLICAS = [
    {
        "name": "app--1-aaa-bbb",
        "properties": {
            "createdTime": "2026-01-02T00:01:00+00:00",
            "runningState": "Running",
            "containers": [
                {"name": "inference", "ready": True, "restartCount": 2, "runningState": "Running"}
            ],
        },
    }
]


def test_status_of_a_stage_that_serves(session: Session, az: ScriptedAz) -> None:
    az.answers |= {"containerapp revision list": REVISIONS, "containerapp replica list": REPLICAS}  # type: ignore[dict-item]  # JSON
    with server(VERSION) as endpoint:
        serve_at(session, endpoint)
        status = find_status(session)
    assert status.to_json() == {
        "stage": "azure",
        "cloud": "azure",
        "endpoint": endpoint,
        "resource_group": "my-rg",
        "app": "app",
        "release": "20260102T030405Z-abcdef01",
        "version": "0.1.0",
        "revision": "app--1",
        "state": "Running",
        "replicas": (
            {
                "name": "app--1-aaa-bbb",
                "created": "2026-01-02T00:01:00+00:00",
                "ready": True,
                "restarts": 2,
                "state": "Running",
            },
        ),
        "ready": True,
        "base_model": "org/base",
        "adapters": ("tuned",),
        "detail": "",
    }
    assert status.to_text().splitlines()[2:] == [
        "state       ready",
        "release     20260102T030405Z-abcdef01",
        "revision    app--1 (Running)",
        "base model  org/base",
        "adapters    tuned",
        "replica     app--1-aaa-bbb Running ready, since 2026-01-02T00:01:00+00:00, restarted 2 times",
    ]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"ready": False}, 200, "the server is still starting"),
        ("no replica is ready", 503, "the endpoint answers with HTTP 503"),
        (
            b"nothing deployed yet: run invoke deploy\n",
            503,
            "the endpoint answers with HTTP 503: nothing deployed yet: run invoke deploy",
        ),
        (b"", 503, "the endpoint answers with HTTP 503"),
        ([], 200, "the endpoint is not a server of ours"),
        (b"<html>", 200, "the endpoint does not answer: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_why_it_is_not_ready(session: Session, az: ScriptedAz, body: Any, status: int, detail: str) -> None:
    az.answers |= {"containerapp revision list": [], "containerapp replica list": []}
    with server(body, status) as endpoint:
        serve_at(session, endpoint)
        found = find_status(session)
    assert (found.ready, found.detail, found.release) == (False, detail, None)


def test_the_platform_says_more_about_a_revision_that_fails(session: Session, az: ScriptedAz) -> None:
    failed = {
        "createdTime": "x",
        "runningState": "Failed",
        "runningStateDetails": "The TargetPort does not match.",
    }
    az.answers |= {
        "containerapp revision list": [{"name": "app--2", "properties": failed}],  # type: ignore[dict-item]  # JSON
        "containerapp replica list": [],
    }
    with server({}, 503) as endpoint:
        serve_at(session, endpoint)
        found = find_status(session)
    assert (found.state, found.detail) == ("Failed", "The TargetPort does not match.")


def test_a_stopped_local_cloud_has_a_status_too(session: Session, az: ScriptedAz) -> None:
    status = find_status(replace(session, is_connected=False))
    assert (status.ready, status.detail, az.commands) == (False, "the local cloud is stopped", [])


# key


def test_the_key_is_read_from_the_app(session: Session, az: ScriptedAz) -> None:
    az.answers["containerapp secret show"] = {"name": "api-key", "value": "abc"}
    keys = find_keys(session)
    assert keys.to_text() == "abc"
    assert keys.to_json() == {"key": "abc", "keys": {"default": "abc"}}
    (line,) = az.lines
    assert line.startswith(
        "az containerapp secret show --name app --secret-name api-key --resource-group my-rg"
    )


def test_keys_in_the_servers_own_form() -> None:
    keys = parse_keys("one=k1, two=k2\nbare,\n")
    assert keys == (ApiKey("one", "k1"), ApiKey("two", "k2"), ApiKey("default", "bare"))
    assert ApiKeys(keys).to_text() == "k1"


@pytest.mark.parametrize("answer", [GONE, {"value": ""}, {}])
def test_an_app_without_a_key(session: Session, az: ScriptedAz, answer: Any) -> None:
    az.answers["containerapp secret show"] = answer
    with pytest.raises(UsageError) as caught:
        find_keys(session)
    assert str(caught.value) == (
        "error: the app 'app' has no API key\n"
        "hint: invoke provision makes one, unless environmentVariables sets FJARR_AUTH to off"
    )


@pytest.mark.parametrize("verb", [find_keys, open_page])
def test_a_stopped_local_cloud_cannot_be_asked(session: Session, verb: Any) -> None:
    with pytest.raises(UsageError) as caught:
        verb(replace(session, is_connected=False))
    assert (
        str(caught.value)
        == "error: the local cloud of stage 'azure' is stopped\nhint: invoke up --stage azure"
    )


# open


def test_the_chat_is_opened(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_in_browser(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", open_in_browser)
    assert open_page(session) == "http://127.0.0.1:9/"
    assert opened == ["http://127.0.0.1:9/"]


def test_without_a_browser_the_address_is_there_all_the_same(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    assert open_page(session) == "http://127.0.0.1:9/"
    assert "no browser could be opened here" in output(session)


# down

APP = {"type": "Microsoft.App/containerApps", "name": "app", "id": "/app"}
ENVIRONMENT = {"type": "Microsoft.App/managedEnvironments", "name": "env", "id": "/env"}
ACCOUNT = {"type": "Microsoft.Storage/storageAccounts", "name": "acct", "id": "/acct"}


class Azure:
    """A group as a script, out of which things can be deleted."""

    def __init__(
        self, az: ScriptedAz, resources: list[dict[str, Any]], tag: str, group_tags: dict[str, Any]
    ) -> None:
        self.resources = resources
        az.answers |= {
            "group show": {"name": "my-rg", "tags": group_tags},
            "containerapp show": {"tags": {"fjarr-made": tag}},
            "resource list": lambda _: list(self.resources),
            "resource delete": self.delete,
            "group delete": None,
        }

    def delete(self, command: Command) -> None:
        gone = command.argv[command.argv.index("--ids") + 1]
        self.resources = [resource for resource in self.resources if resource["id"] != gone]


def test_only_what_provision_made_is_deleted_and_the_rest_is_listed(session: Session, az: ScriptedAz) -> None:
    Azure(az, [ACCOUNT, ENVIRONMENT, APP], "app:app", {})
    result = down(session, is_confirmed=True)
    assert [line for line in az.lines if "delete" in line] == ["az resource delete --ids /app --output json"]
    assert result.to_json() == {
        "stage": "azure",
        "removed": ("app app",),
        "left": (
            {"what": "acct (Microsoft.Storage/storageAccounts)", "size_bytes": None, "remedy": ""},
            {"what": "env (Microsoft.App/managedEnvironments)", "size_bytes": None, "remedy": ""},
        ),
    }
    assert not session.stage.config_path.exists()


def test_a_group_that_provision_made_goes_as_a_whole(session: Session, az: ScriptedAz) -> None:
    Azure(az, [ACCOUNT, APP], "app:app account:acct", {"fjarr-made": "azure"})
    result = down(session, is_confirmed=True)
    assert [line for line in az.lines if "delete" in line] == [
        f"az group delete --name my-rg --subscription {SUBSCRIPTION} --yes --output json"
    ]
    assert result.to_text() == "removed: the resource group my-rg\nnothing is left"


def test_a_group_of_ours_with_something_of_another_stays(session: Session, az: ScriptedAz) -> None:
    Azure(az, [ENVIRONMENT, APP], "app:app", {"fjarr-made": "azure"})
    assert down(session, is_confirmed=True).removed == ("app app",)


def test_what_a_failed_run_made_is_deleted_too(session: Session, az: ScriptedAz) -> None:
    Azure(az, [ACCOUNT], "", {})
    az.answers["containerapp show"] = GONE
    record_managed(session, GROUP, (ManagedResource("account", "acct"), ManagedResource("app", "app")))
    assert down(session, is_confirmed=True).removed == ("account acct",)
    assert format_tag(()) == ""
    assert json.loads((session.stage.state_dir / "made.json").read_text()) == {}


def test_without_a_terminal_down_says_what_it_would_delete(session: Session, az: ScriptedAz) -> None:
    Azure(az, [APP], "app:app", {})
    with pytest.raises(UsageError) as caught:
        down(session)
    assert str(caught.value) == (
        "error: down deletes on Azure, and there is no terminal to ask on\n"
        "  app app\n"
        "hint: add --yes if this is what you want to be deleted"
    )
    assert not [line for line in az.lines if "delete" in line]


def test_purge_is_for_local_stages(session: Session) -> None:
    with pytest.raises(UsageError, match="--purge is for a local stage"):
        down(session, is_purged=True)


class Stopping(Runner):
    """A runner that keeps what it was to run."""

    def __init__(self, folder: Path) -> None:
        super().__init__({}, folder)
        self.lines: list[str] = []

    def run(self, command: Command) -> Completed:
        self.lines.append(command.line)
        return Completed(0, "{}", "")


def test_down_on_a_local_stage_keeps_the_data_and_says_where(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FJARR_CACHE_DIR", str(session.root / "nowhere"))
    stage = load_stage(session.root, "local")
    state = stage.state_dir / "cloud"
    state.mkdir(parents=True)
    (state / "data").write_bytes(b"x" * 1500)
    runner = Stopping(session.root)
    local = replace(session, stage=stage, runner=runner)
    result = down(local)
    assert runner.lines == [shlex.join((sys.executable, "-m", "localcloud", "stop", "--state", str(state)))]
    assert result.to_text() == (
        "removed: the local cloud with its replicas: no process runs, no port is taken\n"
        f"left: {stage.state_dir}, 1.5 kB (invoke down --stage local --purge removes it)"
    )
    assert down(local, is_purged=True).left == ()
    assert not stage.state_dir.exists()
    assert down(local).to_text() == "there was nothing to stop\nnothing is left"


# doctor


def test_the_doctor_finds_what_is_missing(session: Session, az: ScriptedAz) -> None:
    az.answers |= {
        "version": {"azure-cli": "2.91.0"},
        "account show": UsageError("you are not signed in to Azure", hint="az login"),
    }
    diagnosis = diagnose(session)
    assert [(check.name, check.is_ok) for check in diagnosis.checks] == [
        ("Python", True),
        ("az", True),
        ("bicep", True),
        ("disk", True),
        ("sign-in", False),
    ]
    assert diagnosis.to_text().endswith("MISSING sign-in: you are not signed in to Azure\n        az login")
    with pytest.raises(ToolError, match="something is missing: sign-in"):
        diagnosis.require_health()


def test_without_az_nothing_is_asked_of_azure(session: Session, az: ScriptedAz) -> None:
    az.answers["version"] = ToolError("az is not installed")
    diagnosis = diagnose(session)
    assert diagnosis.checks[-1].name == "disk"
    assert az.lines == ["az version --output json"]
    assert diagnosis.checks[1].remedy == f"{sys.executable} -m pip install -e ."


@pytest.mark.parametrize(
    ("profiles", "is_ok", "found"),
    [
        (["D4", "NC24-A100"], True, "NC24-A100 is offered"),
        (
            ["D4", "Consumption-GPU-NC8as-T4"],
            False,
            "NC24-A100 is not offered; GPU profiles: Consumption-GPU-NC8as-T4",
        ),
    ],
)
def test_the_region_and_its_quota(
    session: Session, az: ScriptedAz, profiles: list[str], *, is_ok: bool, found: str
) -> None:
    az.answers |= {
        "version": {"azure-cli": "2.91.0"},
        "account show": {"user": {"name": "me"}, "name": "Mine", "id": SUBSCRIPTION},
        "containerapp env workload-profile list-supported": [{"name": name} for name in profiles],
        "containerapp list-usages": [
            {"name": {"value": "ManagedEnvironmentCount"}, "currentValue": 1, "limit": 15}
        ],
    }
    region, quota = diagnose(session, location="swedencentral").checks[-2:]
    assert (region.is_ok, region.found) == (is_ok, found)
    assert bool(region.remedy) is not is_ok
    assert quota.found == "ManagedEnvironmentCount 1 of 15"


def test_a_local_stage_needs_no_account(session: Session, az: ScriptedAz) -> None:
    az.answers["version"] = {"azure-cli": "2.91.0"}
    local = replace(session, stage=load_stage(session.root, "local"))
    diagnosis = diagnose(local)
    assert [check.name for check in diagnosis.checks] == ["Python", "az", "bicep", "disk", "memory", "bash"]
    assert Diagnosis("local", ()).to_json() == {"stage": "local", "ok": True, "checks": []}


# up


def test_the_share_s_key_is_asked_for_once_however_often_the_share_is_opened(
    session: Session, az: ScriptedAz
) -> None:
    ask = "storage account show-connection-string"
    az.answers[ask] = GONE
    with pytest.raises(NotFoundError):
        open_share(session)
    az.answers[ask] = {"connectionString": "FileEndpoint=http://127.0.0.1:9/;AccountKey=c2VjcmV0"}
    for _ in range(2):
        with open_share(session):
            pass
    in_group = f"--resource-group my-rg --subscription {SUBSCRIPTION}"
    assert az.lines == [f"az {ask} --name acct {in_group} --output json"] * 2
    write_config(session.stage.config_path, replace(CONFIG, storage_account_name="other"))
    with open_share(session):
        pass
    assert az.lines[2:] == [f"az {ask} --name other {in_group} --output json"]


@pytest.fixture
def up_result(session: Session, az: ScriptedAz) -> UpResult:
    az.answers |= {"containerapp revision list": [], "containerapp replica list": []}
    with server(VERSION) as endpoint:
        serve_at(session, endpoint)
        return UpResult(find_status(session), ".venv/bin/", 'It\'s "broken": what now?', is_changed=True)


def test_the_last_words_of_up(up_result: UpResult) -> None:
    text = up_result.to_text()
    endpoint = up_result.status.endpoint
    assert text.splitlines()[:3] == [
        f"Chat   {endpoint}/",
        f"API    {endpoint}/v1   (model tuned)",
        "Key    .venv/bin/invoke key --stage azure",
    ]
    assert text.splitlines()[-1] == "Stop it all: .venv/bin/invoke down --stage azure"
    assert up_result.to_json()["api"] == f"{endpoint}/v1"


def test_the_curl_line_is_one_line_whose_body_is_json_whatever_the_prompt(up_result: UpResult) -> None:
    (line,) = curl_line(up_result).splitlines()
    words = shlex.split(line)
    assert words[0] == "curl"
    body = json.loads(words[words.index("--data") + 1])
    message = {"role": "user", "content": up_result.prompt}
    assert body == {"model": "tuned", "messages": [message], "max_tokens": 100}
    assert "Authorization: Bearer $(.venv/bin/invoke key --stage azure)" in words


def test_the_snippet_is_python_whatever_the_prompt(up_result: UpResult) -> None:
    first, *lines, last = openai_snippet(up_result).splitlines()
    assert first == "OPENAI_API_KEY=\"$(.venv/bin/invoke key --stage azure)\" .venv/bin/python - <<'PY'"
    assert last == "PY"
    compile("\n".join(lines), "snippet", "exec")
    assert repr(up_result.prompt) in "\n".join(lines)


# The command line itself.

VERBS = sorted(Collection.from_module(tasks).task_names)


def invoke(*arguments: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "invoke", "--search-root", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_list_of_verbs_is_a_table_of_contents() -> None:
    listed = invoke("--list").stdout
    assert re.findall(r"^  (\S+) ", listed, re.MULTILINE) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_takes_a_stage(verb: str) -> None:
    page = invoke("--help", verb).stdout
    assert "--stage=STRING" in page
    assert "Docstring:\n  none" not in page
    options = page.split("Options:")[1]
    assert "\n\n" not in options.strip()
    if verb != "open":
        assert "--json" in options


def test_an_error_of_ours_is_a_message_and_its_exit_code() -> None:
    done = invoke("status", "--stage", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no stage 'nowhere'")
    assert "Traceback" not in done.stderr


def test_the_palette_offers_every_verb() -> None:
    text = (REPOSITORY / ".vscode/tasks.json").read_text()
    offered = re.findall(r"\.venv/bin/invoke (\S+) --stage", text)
    assert sorted(offered) == VERBS
