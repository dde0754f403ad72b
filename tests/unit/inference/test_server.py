"""The server as a process: its environment, its signals, its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inference.api_keys import hide_keys
from inference.server import ServerProcess
from inference.settings import Settings, load_settings
from localcloud.runtime.sockets import free_port
from tests.doubles.measured import measured
from tests.unit.inference.observability.test_tracing import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]
KEY = "secret-key"
GRACE_S = 200
PATIENCE_S = 60.0

# The real process with two replacements: an engine whose answers of twenty words end when a file is there,
# and no chat page, whose libraries take seconds to import.
SCRIPT = """
import asyncio
import os
from inference import server, startup
from tests.doubles.byte_codec import ByteCodec
from inference.engines.protocol import Increment
from tests.doubles.scripted_engine import ScriptedEngine
from inference.engines.protocol import ServedModel, StartedEngine
from inference.errors import ScoresError

class Slow(ScriptedEngine):
    async def _play(self, steps, request, stream):
        if request.model == "unstable":
            raise ScoresError(0)
        if request.request_id.startswith("warm-up"):
            for index in range(request.max_new_tokens):
                await asyncio.sleep(0.001)
                is_last = index == request.max_new_tokens - 1
                stream.push(Increment((65,), "length" if is_last else None))
            return
        for _ in range(20):
            await asyncio.sleep(0.01)
            stream.push(Increment(tuple(b"word ")))
        while not os.path.exists(os.environ["FINISH"]):
            await asyncio.sleep(0.01)
        stream.push(Increment((256,), "stop"))

def load_engine(settings, report):
    server.LOGGER.info("an engine's workers get: %s", [name for name in os.environ if "KEYS" in name])
    adapters = os.environ.get("ADAPTERS", "").split()
    engine = Slow(dict.fromkeys(["m", *adapters], 1000), frozenset({256}), always=((256,),))
    base = ServedModel("m", None, ByteCodec(), frozenset({256}), 0)
    others = [ServedModel(name, "m", ByteCodec(), frozenset({256}), 0) for name in adapters]
    rejected = {"alien": "the adapter alien does not fit m"} if adapters else {}
    return StartedEngine(engine, (base, *others), rejected)

async def no_chat(self, _self_test):
    self._chat_page.application = self._chat_page
    await asyncio.Event().wait()

startup.load_engine = load_engine
server.ServerProcess._run_chat = no_chat
server.main()
"""


@dataclass
class Running:
    """The server as a process."""

    process: subprocess.Popen[str]
    port: int
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.lines
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)

    def ask(self, path: str, body: Any = None, key: str = KEY) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def is_ready(self) -> bool:
        try:
            return self.ask("/readyz")[0] == 200
        except OSError:
            return False

    def end(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(**environ: str) -> Running:
        port = free_port()
        env = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT),
            "FJARR_HOST": "127.0.0.1", "FJARR_PORT": str(port), "FJARR_API_KEYS": f"ann={KEY}",
            "FJARR_DRAIN_GRACE_S": str(GRACE_S), "FINISH": str(tmp_path), **measured(), **environ,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        running = Running(process, port)
        started.append(running)
        running.wait_for(running.is_ready)
        return running

    yield begin
    for running in started:
        running.process.kill()
        running.end()
        assert running.process.stderr is not None
        running.process.stderr.close()


def chat_in_background(running: Running, answers: list[tuple[int, bytes]]) -> threading.Thread:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    thread = threading.Thread(target=lambda: answers.append(running.ask("/v1/chat/completions", body)))
    thread.start()
    running.wait_for(
        lambda: b'vllm:num_requests_running{engine="0",model_name="m"} 1.0' in running.ask("/metrics")[1]
    )
    return thread


def test_at_sigterm_what_is_in_flight_is_finished_and_nothing_new_begun(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    finish = tmp_path / "finish"
    running = start(FINISH=str(finish))
    answers: list[tuple[int, bytes]] = []
    thread = chat_in_background(running, answers)
    running.process.send_signal(signal.SIGTERM)
    running.wait_for(lambda: b'"draining"' in running.ask("/readyz")[1])
    status, body = running.ask("/v1/models")
    assert status == 503
    assert json.loads(body)["error"]["code"] == "draining"
    finish.touch()
    assert running.end() == 0
    thread.join()
    assert answers[0][0] == 200
    assert any("answers at once: 64, or 64 of" in line for line in running.lines)
    assert json.loads(answers[0][1])["choices"][0]["message"]["content"] == "word " * 20


def test_the_second_sigterm_ends_at_once(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start(FJARR_LOG_LEVEL="warning", FINISH=str(tmp_path / "never"))
    answers: list[tuple[int, bytes]] = []
    thread = chat_in_background(running, answers)
    running.process.send_signal(signal.SIGTERM)
    running.wait_for(lambda: b'"draining"' in running.ask("/readyz")[1])
    running.process.send_signal(signal.SIGTERM)
    # The answer has no end, and the grace is longer than this waits.
    assert running.end() == 0
    thread.join()
    # The client gets an error, and the log has only that, because its level is warning.
    assert answers[0][0] == 503
    lines = [line.partition(" ")[2] for line in running.lines]
    assert lines[0] == "WARNING inference.server: a second signal came: 1 requests are cut off"
    assert [line.partition(" ")[0] for line in lines[1:]] == ["ERROR"]
    assert lines[1].endswith("the engine stopped before the answer was complete")


def test_the_last_spans_are_sent_before_the_end(start: Callable[..., Running]) -> None:
    collector = Collector()
    # By itself the exporter sends in an hour.
    running = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="3600000")
    running.ask("/v1/models")
    assert collector.spans == []
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0
    collector.close()
    assert [span.name for span in collector.spans] == ["GET /v1/models"]


def test_json_lines_for_all_and_a_warning_where_prompts_are_logged(start: Callable[..., Running]) -> None:
    running = start(FJARR_LOG_FORMAT="json", FJARR_LOG_PROMPTS="on")
    running.ask("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0
    documents = [json.loads(line) for line in running.lines]
    assert all({"time", "level", "logger", "message"} <= document.keys() for document in documents)
    warnings = [document["message"] for document in documents if document["level"] == "warning"]
    assert warnings == ["FJARR_LOG_PROMPTS is on: prompts and answers are written to this log"]
    (asked,) = [document for document in documents if document["logger"] == "inference.prompts"]
    assert asked["answer"] == "word " * 20
    (line,) = [document for document in documents if document["logger"] == "inference.access"]
    assert (line["completion_tokens"], line["request_id"]) == (101, asked["request_id"])


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="only Linux shows a process's environment"
)
def test_the_running_server_s_environment_contains_no_key(start: Callable[..., Running]) -> None:
    environ = {"FJARR_API_KEYS": f"ann={KEY}"}
    hide_keys(environ, load_settings(environ).api_keys)
    running = start(**environ)
    # The server accepts the key, and the environment that the kernel shows does not contain it.
    assert running.ask("/v1/models")[0] == 200
    assert running.ask("/v1/models", key="wrong")[0] == 401
    shown = Path(f"/proc/{running.process.pid}/environ").read_bytes()
    assert KEY.encode() not in shown
    assert b"sha256:" in shown
    # Child processes do not get the digests either, from which a chat session could be forged.
    assert running.lines[0].endswith("an engine's workers get: []")


def test_an_adapter_that_cannot_be_served_is_named_and_the_others_are_served(
    start: Callable[..., Running],
) -> None:
    running = start(ADAPTERS="fine unstable")
    reason = (
        "unstable was loaded and cannot be served: the model's scores are not finite numbers after 0 tokens:"
        " its weights or this request's parameters are too large for its precision"
    )
    alien = "the adapter alien does not fit m"
    version = json.loads(running.ask("/version")[1])
    assert (version["base_model"], version["adapters"], version["ready"]) == ("m", ["fine"], True)
    reasons = {"alien": alien, "unstable": reason}
    assert {each["name"]: each["reason"] for each in version["failed_adapters"]} == reasons
    models = json.loads(running.ask("/v1/models")[1])
    assert [model["id"] for model in models["data"]] == ["m", "fine"]
    assert models["failed_adapters"] == [
        {"id": "alien", "reason": alien},
        {"id": "unstable", "reason": reason},
    ]
    status, body = running.ask("/v1/completions", {"model": "alien", "prompt": "x"})
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (404, "adapter_failed", "model")
    assert error["message"] == f"The model 'alien' is not served: {alien}."
    assert running.ask("/v1/completions", {"model": "fine", "prompt": "x", "max_tokens": 1})[0] == 200
    assert any(line.endswith(f"an adapter is not served: {alien}") for line in running.lines)


async def test_a_replaced_server_takes_the_first_signal_for_the_first() -> None:
    process = ServerProcess(Settings(auth=False, chat_sign_in=False, drain_grace_s=0.01))
    process._stop.set()  # another server has taken over, and this one drains
    process._handle_signal()
    assert not process._stop_now.is_set()
    # The container ends soon, and this server with it.
    async with asyncio.timeout(PATIENCE_S):
        await process._stop_now.wait()


async def test_the_second_signal_ends_a_replaced_server_at_once() -> None:
    process = ServerProcess(Settings(auth=False, chat_sign_in=False))
    process._stop.set()
    process._handle_signal()
    process._handle_signal()
    assert process._stop_now.is_set()
