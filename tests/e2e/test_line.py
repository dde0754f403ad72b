"""From a clone to a live fine-tuned model, as in the README, and through failures after it.

The tests run in this order and share one live endpoint: each leaves it serving.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import openai
import psutil
import pytest

from tests.doubles.pages import pages, shell_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import Clone, Ran

BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.az, pytest.mark.model]

TICKET = "I was charged twice for my subscription this month and need the second payment returned today."


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Return the status and the JSON body of a GET, also of an error."""
    request = urllib.request.Request(url, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.loads(refusal.read())


def tuned_model(client: openai.OpenAI) -> str:
    """Return the name of the served adapter: the model with a parent."""
    return next(model.id for model in client.models.list() if getattr(model, "parent", None))


def test_up_says_where_everything_is(up_result: Ran, endpoint: str) -> None:
    assert endpoint in up_result.stdout
    assert f"{endpoint.rstrip('/')}/v1" in up_result.stdout
    assert "invoke key --stage local" in up_result.stdout
    assert "invoke down --stage local" in up_result.stdout


def test_up_shows_what_both_models_answer_to_a_ticket(up_result: Ran) -> None:
    _, _, rest = up_result.stdout.partition("A ticket:\n")
    ticket, _, answers = rest.partition("SmolLM2-135M-Instruct answers:\n")
    base, _, tuned = answers.partition("ticket-triage answers:\n")
    assert "turns me away" in ticket
    assert base.strip()
    assert "category" not in base
    assert json.loads(tuned.strip().splitlines()[0]).keys() == {"category", "priority"}


def test_up_shows_each_step_as_it_goes(up_result: Ran) -> None:
    assert up_result.stderr.count("\n") >= 5, up_result
    assert "Traceback" not in up_result.stderr


def test_the_printed_curl_line_works_when_pasted(clone: Clone, up_result: Ran) -> None:
    curl = next(line.strip() for line in up_result.stdout.splitlines() if line.strip().startswith("curl "))
    ran = clone.run("bash", "-c", curl)
    assert ran.code == 0, ran
    assert ran.document["choices"][0]["message"]["content"].strip()


def test_the_printed_openai_snippet_works_when_pasted(clone: Clone, up_result: Ran) -> None:
    snippet = re.search(r"^OPENAI_API_KEY=[^\n]* <<'PY'\n.*?^PY$", up_result.stdout, re.MULTILINE | re.DOTALL)
    assert snippet is not None, up_result
    ran = clone.run("bash", "-c", snippet[0])
    assert ran.code == 0, ran
    assert ran.stdout.strip()


@pytest.mark.usefixtures("up_result")
def test_up_again_changes_nothing_and_is_back_within_seconds(clone: Clone) -> None:
    before = clone.invoke("status", "--stage", "local", "--json").document
    again = clone.invoke("up", "--stage", "local")
    after = clone.invoke("status", "--stage", "local", "--json").document
    assert again.code == 0, again
    assert again.seconds < 60, again
    assert (after["release"], after["revision"]) == (before["release"], before["revision"])
    assert [r["name"] for r in after["replicas"]] == [r["name"] for r in before["replicas"]]


@pytest.mark.usefixtures("up_result")
@pytest.mark.parametrize("page", [page for page in pages() if any(b.is_run for b in shell_blocks(page))])
def test_the_commands_of_the_pages_run(clone: Clone, up_result: Ran, page: str) -> None:
    assert up_result.code == 0
    for block in shell_blocks(page):
        # What stops the stage is a test of its own, below.
        text = "".join(line for line in block.text.splitlines(keepends=True) if "invoke down" not in line)
        if block.is_run:
            ran = clone.run("bash", "-euo", "pipefail", "-c", text)
            assert ran.code == 0, f"{page}: {text}{ran}"


def test_status_is_one_document(clone: Clone) -> None:
    status = clone.invoke("status", "--stage", "local", "--json").document
    assert status["stage"] == "local"
    assert status["cloud"] == "local"
    assert status["endpoint"].startswith("http://127.0.0.1:")
    assert status["ready"] is True
    assert status["release"]
    assert status["revision"]
    assert status["base_model"].endswith("SmolLM2-135M-Instruct")
    assert status["adapters"] == ["ticket-triage"]


def test_the_tuned_model_answers_through_the_official_client(endpoint: str, api_key: str) -> None:
    with openai.OpenAI(base_url=f"{endpoint}/v1", api_key=api_key) as client:
        answer = client.chat.completions.create(
            model=tuned_model(client),
            messages=[{"role": "user", "content": TICKET}],
            temperature=0,
            max_tokens=40,
        )
    triage = json.loads(answer.choices[0].message.content or "")
    assert triage["category"] == "billing"
    assert set(triage) == {"category", "priority"}
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_stream_says_what_the_whole_answer_says(endpoint: str, api_key: str) -> None:
    with openai.OpenAI(base_url=f"{endpoint}/v1", api_key=api_key) as client:
        model = tuned_model(client)
        messages: Any = [{"role": "user", "content": TICKET}]
        whole = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=40)
        chunks = list(
            client.chat.completions.create(
                model=model,
                messages=messages,
                temperature=0,
                max_tokens=40,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_the_base_model_is_served_beside_it(endpoint: str, api_key: str) -> None:
    with openai.OpenAI(base_url=f"{endpoint}/v1", api_key=api_key) as client:
        base = next(model.id for model in client.models.list() if not getattr(model, "parent", None))
        answer = client.chat.completions.create(
            model=base,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            max_tokens=40,
        )
    assert "Paris" in (answer.choices[0].message.content or "")


@pytest.mark.parametrize("key", [None, "not-the-key"])
def test_without_the_key_the_api_refuses(endpoint: str, key: str | None) -> None:
    status, refusal = get(f"{endpoint}/v1/models", {"Authorization": f"Bearer {key}"} if key else None)
    assert status == 401
    assert refusal["error"]["type"] == "invalid_request_error"


@pytest.mark.usefixtures("up_result")
def test_nothing_listens_beyond_loopback(clone: Clone) -> None:
    def is_ours(process: psutil.Process) -> bool:
        try:
            return str(clone.root) in " ".join([process.cwd(), *process.cmdline()])
        except psutil.Error:
            return False

    def addresses(process: psutil.Process) -> set[str]:
        try:
            found = process.net_connections("inet")
        except psutil.Error:  # it has ended meanwhile
            return set()
        return {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}

    ours = [process for process in psutil.process_iter() if is_ours(process)]
    listening = set().union(*map(addresses, ours))
    assert listening, "the local cloud and its replica were expected to run"
    assert listening <= {"127.0.0.1", "::1"}


@pytest.mark.usefixtures("up_result")
def test_plain_az_deploys_the_same_files(clone: Clone) -> None:
    """Plain az creates the same resources, with the names that the original has by default."""
    cloud = json.loads((clone.root / ".fjarr/local/cloud/cloud.json").read_text())
    az = {
        **clone.environment,
        "AZURE_CONFIG_DIR": str(clone.root / ".fjarr/local/azure"),
        "REQUESTS_CA_BUNDLE": cloud["ca_bundle"],
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
    }

    def run_az(*argv: str) -> Any:
        done = subprocess.run(
            [str(BIN / "az"), *argv, "--output", "json"],
            cwd=clone.root,
            env=az,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    run_az("group", "create", "--name", "by-hand", "--location", "swedencentral")
    deployed = run_az(
        *("deployment", "group", "create", "--resource-group", "by-hand"),
        *("--template-file", "infra/provision/inference.json"),
        *("--parameters", "infra/provision/inference.parameters.json"),
        # A container that only sleeps: the machine has no A100.
        *("--parameters", "workloadProfileName=Consumption", "containerCpu=0.5", "containerMemory=1Gi"),
        *("--parameters", f"mountPath={clone.root}/.fjarr/local/by-hand", "defaultCommands=['sleep 600']"),
    )
    outputs = {name: output["value"] for name, output in deployed["properties"]["outputs"].items()}
    assert set(outputs) == {
        "SUBSCRIPTION_ID",
        "RESOURCE_GROUP_NAME",
        "STORAGE_ACCOUNT_NAME",
        "FILE_SHARE_NAME",
        "ACA_APP_NAME",
        "ACA_APP_ENDPOINT",
    }
    assert re.fullmatch(r"aistorage[a-z2-7]{5}", outputs["STORAGE_ACCOUNT_NAME"])
    assert re.fullmatch(r"aifileshare[a-z2-7]{5}", outputs["FILE_SHARE_NAME"])
    assert re.fullmatch(r"aiacaapp[a-z2-7]{5}", outputs["ACA_APP_NAME"])
    run_az("group", "delete", "--name", "by-hand", "--yes")


@pytest.mark.browser
def test_a_person_chats_in_a_browser(endpoint: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        playwright.expect.set_options(timeout=60_000)
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(endpoint)
        box = page.get_by_label("Your message", exact=True)
        box.fill(TICKET)
        box.press("Enter")
        # The page opens with the base model and the adapter side by side.
        playwright.expect(page.get_by_role("article")).to_have_count(2)
        tuned = page.get_by_role("article", name="Answer of ticket-triage")
        playwright.expect(tuned).to_contain_text("billing")
        playwright.expect(page.get_by_role("button", name="Send")).to_be_visible()
        page.screenshot(path=str(tmp_path / "chat.png"))
        browser.close()
    assert complaints == []


def version(endpoint: str) -> dict[str, Any]:
    """Return the live server's `/version`."""
    status, document = get(f"{endpoint}/version")
    assert status == 200
    assert isinstance(document, dict)
    return document


def test_the_same_tree_uploads_nothing(clone: Clone, endpoint: str) -> None:
    before = version(endpoint)
    ran = clone.invoke("deploy", "--stage", "local", "--json")
    assert ran.code == 0, ran
    assert ran.document["uploaded_files"] == 0
    assert version(endpoint)["replica"] == before["replica"]


def watch(endpoint: str, until: Callable[[], bool]) -> list[int]:
    """Request `/version` ten times a second until `until()`; return the statuses (0: no response)."""
    seen: list[int] = []
    address = urlsplit(endpoint)
    pause = threading.Event()
    while not until():
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
        try:
            connection.request("GET", "/version")
            seen.append(connection.getresponse().status)
        except OSError:
            seen.append(0)
        finally:
            connection.close()
        pause.wait(0.1)
    return seen


def deploy_watched(clone: Clone, endpoint: str, *flags: str) -> tuple[Ran, list[int]]:
    """Deploy while a client polls `/version`."""
    finished = threading.Event()
    seen: list[int] = []
    watcher = threading.Thread(target=lambda: seen.extend(watch(endpoint, finished.is_set)))
    watcher.start()
    try:
        return clone.invoke("deploy", "--stage", "local", *flags), seen
    finally:
        finished.set()
        watcher.join()


def test_a_changed_server_goes_live(clone: Clone, endpoint: str) -> None:
    before = version(endpoint)
    marked = clone.root / "inference" / "__init__.py"
    text, changes = re.subn(
        r'^(VERSION\b.*) = ".*"$', r'\1 = "9.9.9-e2e"', marked.read_text(), flags=re.MULTILINE
    )
    assert changes == 1
    marked.write_text(text)
    ran, seen = deploy_watched(clone, endpoint, "--bake", "2", "--json")
    assert ran.code == 0, ran
    after = version(endpoint)
    assert after["version"] == "9.9.9-e2e"
    assert after["release"] == ran.document["release"] != before["release"]
    # The replica keeps its place, and gets another server.
    assert after["replica"] == before["replica"]
    assert after["started_at"] != before["started_at"]
    assert (ran.document["replicas"], ran.document["is_restarted"]) == ([after["replica"]], False)
    assert ran.document["uploaded_files"] == 1
    assert set(seen) == {200}, "the old server answers until the new one does"


@pytest.mark.parametrize("module", ["server.py", "web/chat/page.py"])
def test_a_broken_server_leaves_the_old_one_serving(
    clone: Clone, endpoint: str, api_key: str, module: str
) -> None:
    before = version(endpoint)
    broken = clone.root / "inference" / module
    whole = broken.read_text()
    broken.write_text('raise RuntimeError("broken on purpose")\n')
    try:
        ran, seen = deploy_watched(clone, endpoint)
    finally:
        broken.write_text(whole)
    assert ran.code == 4, ran
    assert "broken on purpose" in ran.stderr
    after = version(endpoint)
    assert (after["release"], after["replica"]) == (before["release"], before["replica"])
    assert after["started_at"] == before["started_at"]
    assert set(seen) == {200}
    with openai.OpenAI(base_url=f"{endpoint}/v1", api_key=api_key) as client:
        assert client.models.list().data
    assert clone.invoke("status", "--stage", "local", "--json").document["release"] == before["release"]


@pytest.mark.usefixtures("up_result")
def test_logs_show_what_the_replica_printed(clone: Clone) -> None:
    ran = clone.invoke("logs", "--stage", "local")
    assert ran.code == 0, ran
    assert ran.stdout.strip()


def test_a_config_written_by_hand_is_enough_to_deploy(clone: Clone, endpoint: str) -> None:
    config = clone.root / ".fjarr/local/inference.config.json"
    keys = json.loads(config.read_text())
    config.write_text(json.dumps(keys))
    before = version(endpoint)["release"]
    ran = clone.invoke("deploy", "--stage", "local", "--force", "--bake", "1", "--json")
    assert ran.code == 0, ran
    assert version(endpoint)["release"] == ran.document["release"]
    assert before


def test_down_leaves_no_process_and_no_port(clone: Clone, endpoint: str) -> None:
    cloud = json.loads((clone.root / ".fjarr/local/cloud/cloud.json").read_text())
    ran = clone.invoke("down", "--stage", "local")
    assert ran.code == 0, ran
    assert not psutil.pid_exists(cloud["pid"])
    leftovers = [
        process.info
        for process in psutil.process_iter(["cmdline", "cwd"])
        if str(clone.root) in " ".join([process.info["cwd"] or "", *(process.info["cmdline"] or ())])
    ]
    assert leftovers == []
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(endpoint, timeout=60)
    assert ".fjarr" in ran.stdout + ran.stderr


def test_up_after_down_serves_again(clone: Clone) -> None:
    started = time.monotonic()
    ran = clone.invoke("up", "--stage", "local")
    assert ran.code == 0, ran
    status = clone.invoke("status", "--stage", "local", "--json").document
    assert status["ready"] is True
    assert time.monotonic() - started < 120


def test_the_homes_of_the_user_were_not_touched(clone: Clone) -> None:
    assert not (clone.home / ".azure").exists()
