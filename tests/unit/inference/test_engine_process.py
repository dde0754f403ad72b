"""The engine and the server as two processes: the start, requests, and an engine that ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from inference.engine_process import load_engine_settings
from inference.engines.remote.handshake import Hello, hello_line, read_hello, read_status
from inference.errors import SettingsError
from inference.text.codec import _byte_alphabet
from localcloud.runtime.sockets import free_port
from tests.doubles.measured import measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parents[3]
KEY: Final = "secret-key"
ADMIN_KEY: Final = "admin-secret"
PATIENCE_S: Final = 60.0
HELLO: Final = [{"role": "user", "content": "Hello"}]

# The real process, whose start waits for a file, with an engine that generates a word every hundredth of a
# second: forty times, and the end once a file is there, or for ever if it is to ignore the end.
ENGINE: Final = """
import asyncio
import itertools
import os
import time
from pathlib import Path
from inference import engine_process, startup
from inference.engines.protocol import Increment, ServedModel, StartedEngine
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.scripted_engine import ScriptedEngine

class Slow(ScriptedEngine):
    async def _play(self, steps, request, stream):
        if request.request_id.startswith("warm-up"):
            for index in range(request.max_new_tokens):
                await asyncio.sleep(0.001)
                stream.push(Increment((65,), "length" if index == request.max_new_tokens - 1 else None))
            return
        for number in itertools.count():
            await asyncio.sleep(0.01)
            stream.push(Increment(tuple(b"word ")))
            if number == 39 and not request.stopping.ignore_eos:
                while not Path(os.environ["FINISH"]).exists():
                    await asyncio.sleep(0.01)
                stream.push(Increment((256,), "stop"))
                return

def load_engine(settings, report):
    engine_process.LOGGER.info("keys in the environment: %s", [name for name in os.environ if "_KEY" in name])
    report("loading the base model", 30)
    while not Path(os.environ["GATE"]).exists():
        time.sleep(0.01)
    engine = Slow({"m": 100_000, "tuned": 1000}, frozenset({256}), always=((256,),))
    served = (
        ServedModel(name, parent, ByteCodec(), frozenset({256}), 7, source)
        for name, parent in (("m", None), ("tuned", "m"))
    )
    source = os.environ["TOKENIZER"]
    engine.offers["late"] = ServedModel("late", "m", ByteCodec(), frozenset({256}), 8, source)
    return StartedEngine(engine, tuple(served), {"broken": "it does not fit"})

startup.load_engine = load_engine
engine_process.main()
"""

# The real process; at SIGUSR1 it writes whether it has imported torch, and something that it has to have.
SERVER: Final = """
import asyncio
import os
import signal
import sys
from inference import server

def show(*_):
    names = [name for name in ("torch", "gradio", "transformers") if sys.modules.get(name)]
    server.LOGGER.info("imported: %s", names)

async def no_chat(self, _self_test):
    await asyncio.Event().wait()

signal.signal(signal.SIGUSR1, show)
if "NO_CHAT" in os.environ:
    server.ServerProcess._run_chat = no_chat
server.main()
"""


class Process:
    """A process and its log."""

    def __init__(self, script: str, environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], env=environ, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += (line.rstrip() for line in self.process.stderr)

    def has_line(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def end(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code

    def close(self) -> None:
        self.process.kill()
        self.end()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Replica:
    """A server's process and an engine's, which a test starts and ends."""

    def __init__(self, folder: Path) -> None:
        self.gate = folder / "gate"
        self.finish = folder / "finish"
        self.finish.touch()
        self.path = folder / "engine.sock"
        self.port = free_port()
        self.environ = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), "GATE": str(self.gate),
            "FINISH": str(self.finish), "TOKENIZER": str(save_tokenizer(folder)), "FJARR_HOST": "127.0.0.1",
            "FJARR_PORT": str(self.port), "FJARR_API_KEYS": f"ann={KEY}", "FJARR_ADMIN_KEY": ADMIN_KEY,
            "FJARR_MOUNT": str(folder),
            "FJARR_ENGINE_SOCKET": str(self.path), "FJARR_DRAIN_GRACE_S": "200",
            **measured(),
        }  # fmt: skip
        self.processes: list[Process] = []

    def start_engine(self, **environ: str) -> Process:
        return self._start(ENGINE, environ)

    def start_server(self, **environ: str) -> Process:
        return self._start(SERVER, {"NO_CHAT": ""} | environ)

    def start_server_with_chat(self) -> Process:
        return self._start(SERVER, {})

    def _start(self, script: str, environ: dict[str, str]) -> Process:
        self.processes.append(Process(script, self.environ | environ))
        return self.processes[-1]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, [process.lines for process in self.processes]
            time.sleep(0.01)

    def ask(self, path: str, body: Any = None, key: str = KEY, port: int = 0) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port or self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                content = response.read()
                is_json = response.headers["Content-Type"].startswith("application/json")
                return response.status, json.loads(content) if is_json else content.decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except OSError:
            return 0, None

    def chat(self, **fields: Any) -> tuple[int, Any]:
        return self.ask("/v1/chat/completions", {"model": "tuned", "messages": HELLO} | fields)

    def is_ready(self) -> bool:
        return self.ask("/readyz") == (200, {"status": "ready"})


def save_tokenizer(folder: Path) -> Path:
    """Save a tokenizer of the bytes and an end token, with the ids of the double `ByteCodec`."""
    backend = Tokenizer(models.BPE(vocab=_byte_alphabet() | {"<end>": 256}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    backend.save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<end>",
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def replica() -> Iterator[Replica]:
    # pytest's own folders have names that are too long for a Unix socket.
    with tempfile.TemporaryDirectory() as folder:
        replica = Replica(Path(folder))
        yield replica
        for process in replica.processes:
            process.close()


def test_the_server_shows_the_engine_s_start_then_serves_without_torch(replica: Replica) -> None:
    server = replica.start_server_with_chat()
    waiting = {"status": "starting", "phase": "waiting for the engine process", "percent": 0}
    replica.wait_for(lambda: replica.ask("/readyz") == (503, waiting))
    engine = replica.start_engine()
    loading = {"status": "starting", "phase": "loading the base model", "percent": 30}
    replica.wait_for(lambda: replica.ask("/readyz") == (503, loading))
    assert replica.ask("/healthz")[0] == 200
    assert replica.chat()[1]["error"]["code"] == "starting"
    replica.gate.touch()
    replica.wait_for(replica.is_ready)
    status, answer = replica.chat()
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "word " * 40)
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 201, "total_tokens": 206}
    listed = replica.ask("/v1/models")[1]["data"]
    assert [(model["id"], model["parent"], model["max_model_len"], model["created"]) for model in listed] == [
        ("m", None, 100_000, 7),
        ("tuned", "m", 1000, 7),
    ]
    version = replica.ask("/version")[1]
    assert version["failed_adapters"] == [
        {"name": "broken", "reason": "it does not fit", "needs_restart": False}
    ]
    # The engine has measured its speed, and the server has not.
    replica.wait_for(lambda: server.has_line("answers at once: 64, or 64 of"))
    # No process knows the keys but the server.
    replica.wait_for(lambda: engine.has_line("keys in the environment: []"))
    replica.wait_for(lambda: server.has_line("the chat page is up"))
    server.process.send_signal(signal.SIGUSR1)
    replica.wait_for(lambda: server.has_line("imported: "))
    assert server.has_line("imported: ['gradio', 'transformers']")
    for process in (server, engine):
        process.process.send_signal(signal.SIGTERM)
        assert process.end() == 0
    assert not replica.path.exists()


def test_requests_of_an_engine_that_is_killed_end_with_503_and_the_next_engine_serves(
    replica: Replica,
) -> None:
    replica.gate.touch()
    server, engine = replica.start_server(), replica.start_engine()
    replica.wait_for(replica.is_ready)
    answers: list[tuple[int, Any]] = []
    endless = {"model": "m", "ignore_eos": True, "max_tokens": 50_000}
    asking = threading.Thread(target=lambda: answers.append(replica.chat(**endless)))
    asking.start()
    replica.wait_for(lambda: server_is_busy(replica))
    replica.gate.unlink()
    engine.process.kill()
    asking.join(PATIENCE_S)
    assert (answers[0][0], answers[0][1]["error"]["code"]) == (503, "engine_failed")
    # A replica whose engine is started again is alive and takes no requests.
    assert replica.ask("/healthz")[0] == 200
    assert replica.ask("/readyz")[0] == 503
    status, body = replica.chat()
    assert (status, body["error"]["code"]) == (503, "starting")
    replica.start_engine()
    replica.gate.touch()
    replica.wait_for(replica.is_ready)
    assert replica.chat()[0] == 200
    replica.wait_for(lambda: server.has_line("the engine process has ended"))


def server_is_busy(replica: Replica) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{replica.port}/metrics", headers={"Authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        return b'vllm:num_requests_running{engine="0",model_name="m"} 1.0' in response.read()


def test_a_second_server_takes_over_while_the_first_finishes(replica: Replica) -> None:
    replica.gate.touch()
    engine, first = replica.start_engine(), replica.start_server()
    replica.wait_for(replica.is_ready)
    replica.finish.unlink()
    answers: list[tuple[int, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(replica.chat(model="m")))
    asking.start()
    replica.wait_for(lambda: server_is_busy(replica))
    first.process.send_signal(signal.SIGTERM)
    replica.port = free_port()
    replica.start_server(FJARR_PORT=str(replica.port))
    replica.wait_for(replica.is_ready)
    assert first.process.poll() is None
    replica.finish.touch()
    asking.join(PATIENCE_S)
    assert answers[0][0] == 200
    assert first.end() == 0
    assert replica.chat()[0] == 200
    assert engine.process.poll() is None


def test_an_adapter_that_one_server_adds_or_removes_comes_and_goes_on_all(replica: Replica) -> None:
    replica.gate.touch()
    other = free_port([replica.port])
    replica.start_engine()
    server, _ = replica.start_server(), replica.start_server(FJARR_PORT=str(other))
    ready = (200, {"status": "ready"})
    replica.wait_for(lambda: replica.is_ready() and replica.ask("/readyz", port=other) == ready)
    folder = replica.gate.parent / "models" / "late"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    body = {"lora_name": "late", "lora_path": "models/late"}
    status, said = replica.ask("/v1/load_lora_adapter", body, ADMIN_KEY)
    assert status == 200, said

    def serves(port: int, *names: str) -> bool:
        listed = replica.ask("/v1/models", port=port)[1]["data"]
        return [model["id"] for model in listed] == list(names)

    for port in (replica.port, other):
        replica.wait_for(partial(serves, port, "m", "late", "tuned"))
        status, answer = replica.ask("/v1/completions", {"model": "late", "prompt": "x"}, port=port)
        assert (status, answer["choices"][0]["text"]) == (200, "word " * 40)
    status, said = replica.ask("/v1/unload_lora_adapter", {"lora_name": "tuned"}, ADMIN_KEY, other)
    assert status == 200, said
    for port in (replica.port, other):
        replica.wait_for(partial(serves, port, "m", "late"))
    # What an engine can do at once is found out once.
    assert sum("answers at once" in line for line in server.lines) == 1


def test_the_engine_finishes_what_runs_before_it_stops(replica: Replica) -> None:
    replica.gate.touch()
    engine, _ = replica.start_engine(), replica.start_server()
    replica.wait_for(replica.is_ready)
    replica.finish.unlink()
    answers: list[tuple[int, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(replica.chat(model="m")))
    asking.start()
    replica.wait_for(lambda: server_is_busy(replica))
    engine.process.send_signal(signal.SIGTERM)
    replica.finish.touch()
    asking.join(PATIENCE_S)
    assert answers[0][0] == 200
    assert engine.end() == 0
    assert engine.lines[-1].endswith("stopped")
    replica.wait_for(lambda: not replica.is_ready())


def test_a_supervisor_sees_why_the_engine_has_failed(replica: Replica) -> None:
    engine = replica.start_engine()
    replica.wait_for(replica.path.exists)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(replica.path))
        client.sendall(hello_line(Hello(0, "supervisor", "status")))
        with client.makefile("rb") as lines:
            assert read_hello(lines.readline()).pid == engine.process.pid
            status = read_status(lines.readline())
            while status.percent != 30:
                status = read_status(lines.readline())
            engine.process.send_signal(signal.SIGTERM)
            statuses = [read_status(line) for line in lines]
    assert statuses[-1].state == "draining"
    assert engine.end() == 0


def test_an_engine_does_not_outlive_the_process_that_started_it(replica: Replica) -> None:
    parent = replica._start(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ENGINE!r}])", {})
    replica.wait_for(replica.path.exists)
    parent.process.kill()
    # The log has an end when the last process that could write to it has one.
    parent.end()
    assert parent.has_line("the process that started this one has ended")
    assert parent.lines[-1].endswith("stopped")


def test_an_engine_that_cannot_load_says_why_and_ends(replica: Replica) -> None:
    script = "from inference import engine_process; engine_process.main()"
    engine = replica._start(script, {"FJARR_MOUNT": "/nowhere"})
    assert engine.end() == 1
    assert "cannot serve: " in engine.lines[-1]


def test_the_engine_needs_a_socket_and_no_keys() -> None:
    with pytest.raises(SettingsError, match="FJARR_ENGINE_SOCKET: it is empty"):
        load_engine_settings({"FJARR_API_KEYS": "k", "FJARR_CHAT_SIGN_IN": "on"})
    settings, path = load_engine_settings(
        {"FJARR_API_KEYS": "not, a=, valid=,list", "FJARR_ENGINE_SOCKET": "/run/engine.sock"}
    )
    assert (settings.api_keys, str(path)) == ((), "/run/engine.sock")
