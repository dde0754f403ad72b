# ruff: noqa: T201 - the result of a command line goes to stdout
"""Time changes of a running local stage, under load: of code, an adapter or the engine, and a restart.

    python -m benchmarks.deploy --stage local --rounds 3

Clients stream answers all the while, and each deployment counts what failed for them. The tree is changed by
comments at the end of modules, and restored at the end. The seconds are those from the change of `CURRENT`
until the release is proven; the whole command also reads, packs and uploads the tree. An adapter is pushed
with the same weights and other metadata, and its seconds are those of the whole command.
"""

from __future__ import annotations

import argparse
import io
import logging
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import openai
from safetensors.torch import load_file, save_file

from benchmarks import command_line
from infra.console import Console
from infra.resources.api_keys import read_keys
from infra.session import open_session
from infra.verbs.deploy import deploy
from infra.verbs.push import push, remove

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.process import Command, Completed
    from infra.session import Session

ROOT: Final = Path(__file__).resolve().parents[1]
TOKENS: Final = 32

ADAPTER: Final = ROOT / "examples" / "ticket-triage" / "adapter"
ADAPTER_NAME: Final = "bench"
WEIGHTS: Final = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class CodeChange:
    """A comment at the end of a module, and a deployment, which restarts the revision or does not."""

    path: str
    restart: bool = False

    def apply(self, session: Session) -> float:
        """Change the module and deploy; return how long the proof took, in seconds."""
        with (ROOT / self.path).open("a", encoding="utf-8") as file:
            file.write(f"# {time.time_ns()}\n")
        return deploy(session, restart=self.restart, bake_s=0).seconds


@dataclass(frozen=True, slots=True)
class AdapterChange:
    """A new version of an adapter, and a push of it."""

    def apply(self, session: Session) -> float:
        """Make the version and push it; return how long that took, in seconds."""
        with tempfile.TemporaryDirectory() as folder:
            adapter = Path(folder) / ADAPTER_NAME
            shutil.copytree(ADAPTER, adapter)
            metadata = {"format": "pt", "made": str(time.time_ns())}
            save_file(load_file(ADAPTER / WEIGHTS), adapter / WEIGHTS, metadata)
            began_s = time.monotonic()
            push(session, adapter=adapter)
            return time.monotonic() - began_s


CHANGES: Final[dict[str, CodeChange | AdapterChange]] = {
    "code change": CodeChange("inference/web/pages.py"),
    "adapter change": AdapterChange(),
    "engine change": CodeChange("inference/engines/protocol.py"),
    "code change, --restart": CodeChange("inference/web/pages.py", restart=True),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What one deployment took.

    Attributes:
        proven_s: From the change of `CURRENT` until the proof.
        command_s: The whole deployment.
        streams: How many answers were complete meanwhile.
        failed: How many requests failed or broke off.
        share_requests: Requests to the share.
        az_starts: Processes of az.
    """

    proven_s: float
    command_s: float
    streams: int
    failed: int
    share_requests: int
    az_starts: int


@dataclass
class Load:
    """Clients that stream one answer after another, over connections that they keep open."""

    url: str
    key: str
    complete: int = 0
    failed: int = 0
    _is_over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, clients: int) -> None:
        """Start the clients."""
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each client complete its answer, and end."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0) as client:
            model = next(iter(client.models.list())).id
            while not self._is_over.is_set():
                try:
                    stream = client.completions.create(
                        model=model,
                        prompt="The capital of France is",
                        max_tokens=TOKENS,
                        stream=True,
                        stream_options={"include_usage": True},
                    )
                    has_ended = [chunk.usage for chunk in stream][-1] is not None
                except openai.OpenAIError:
                    has_ended = False
                self.complete += has_ended
                self.failed += not has_ended


class Requests(logging.Handler):
    """Counts the requests of the Files SDK, which logs each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count a request."""
        self.count += str(record.msg).startswith("Request URL")


def count_az(session: Session) -> list[str]:
    """Return a list that grows with each az process that the session starts."""
    started: list[str] = []
    run = session.runner.run

    def counting(command: Command) -> Completed:
        if command.argv[0] == "az":
            started.append(command.line)
        return run(command)

    session.runner.run = counting  # type: ignore[method-assign]  # the one place where processes start
    return started


def measure(stage: str, change: CodeChange | AdapterChange, load: Load) -> Measured:
    """Make a change, and return what it took."""
    logger, requests = logging.getLogger("azure.core.pipeline.policies.http_logging_policy"), Requests()
    logger.setLevel(logging.INFO)
    logger.addHandler(requests)
    session = open_session(ROOT, stage, Console(io.StringIO()))
    az_starts = count_az(session)
    complete, failed, began_s = load.complete, load.failed, time.monotonic()
    try:
        proven_s = change.apply(session)
    finally:
        logger.removeHandler(requests)
    command_s = time.monotonic() - began_s
    return Measured(
        proven_s,
        command_s,
        load.complete - complete,
        load.failed - failed,
        requests.count,
        len(az_starts),
    )


def rows(measured: dict[str, list[Measured]]) -> Iterator[str]:
    """Return the table, with the medians of all rounds and the sums of what failed."""
    yield "| change | proven | whole command | failed requests | answers meanwhile | share | az |"
    yield "|---|---|---|---|---|---|---|"
    for name, runs in measured.items():
        proven, command = median(run.proven_s for run in runs), median(run.command_s for run in runs)
        failed, streams = sum(run.failed for run in runs), sum(run.streams for run in runs)
        share, az = max(run.share_requests for run in runs), max(run.az_starts for run in runs)
        yield f"| {name} | {proven:.1f} s | {command:.1f} s | {failed} | {streams} | {share} | {az} |"


def main() -> None:
    """Measure each kind of deployment in turn, for a number of rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", default="local")
    parser.add_argument("--rounds", type=command_line.count, default=3)
    parser.add_argument("--clients", type=command_line.count, default=2)
    parser.add_argument("--change", action="append", choices=CHANGES, help="measure this alone; repeatable")
    options = parser.parse_args()
    changes = {name: CHANGES[name] for name in options.change or CHANGES}
    session = open_session(ROOT, options.stage, Console())
    config = session.config()
    keys = read_keys(session.az, session.group(), config.aca_app_name)
    load = Load(config.endpoint_url, keys[0].value)
    paths = {change.path for change in changes.values() if isinstance(change, CodeChange)}
    originals = {path: (ROOT / path).read_text() for path in paths}
    measured: dict[str, list[Measured]] = {name: [] for name in changes}
    load.start(options.clients)
    try:
        for _ in range(options.rounds):
            for name, change in changes.items():
                measured[name].append(measure(options.stage, change, load))
                print(name, measured[name][-1], flush=True)
    finally:
        load.stop()
        for path, text in originals.items():
            (ROOT / path).write_text(text)
        if measured.get("adapter change"):
            remove(session, ADAPTER_NAME)
    print("\n".join(rows(measured)))


if __name__ == "__main__":
    command_line.run(main)
