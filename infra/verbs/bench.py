"""Load a stage, or any OpenAI-compatible endpoint, and find how many users it holds."""

from __future__ import annotations

import asyncio
import io
import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from rich.console import Console as RichConsole
from rich.table import Table

from infra.errors import RemoteError, ToolError, UsageError
from infra.evaluation.asking import list_models, trusted_certificates
from infra.evaluation.examples import read_examples
from infra.network import is_on_this_machine
from infra.resources.model_endpoint import KEY_VARIABLE, find_endpoint
from infra.wording import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.measures import Measurement, Percentiles
    from benchmarks.users import Found
    from infra.console import Console
    from infra.evaluation.asking import Endpoint
    from infra.session import Session

DEFAULT_THINK_TIME_S: Final = 30.0
DEFAULT_GOAL_S: Final = 2.0
TEXT_WIDTH: Final = 120


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure.

    Attributes:
        models: The models that requests name, in rotation. Empty: the last one that the endpoint lists.
        endpoint: The address of the server; None is the stage's.
        key_variable: The environment variable with the key for that address.
        goal_s: The most that the 95th percentile of the time to the first token may be.
        think_time_s: How long a person waits between an answer and the next question.
        levels: Numbers of clients to measure in place of a search.
        max_clients: The most clients that the search tries.
        time_limit_s: After this time no further load begins.
        requests: The number of requests of each load; None is two for each client.
        max_tokens: The length of the answers.
        data: A file with examples, whose last messages are asked; None makes up texts.
        plot: The file to draw a plot in.
    """

    models: tuple[str, ...] = ()
    endpoint: str | None = None
    key_variable: str = KEY_VARIABLE
    goal_s: float = DEFAULT_GOAL_S
    think_time_s: float = DEFAULT_THINK_TIME_S
    levels: tuple[int, ...] = ()
    max_clients: int = 256
    time_limit_s: float = 300.0
    requests: int | None = None
    max_tokens: int = 64
    data: Path | None = None
    plot: Path | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """The results of the loads.

    Attributes:
        endpoint: The address of the server.
        models: The models that were asked.
        goal_s: The most that the 95th percentile of the time to the first token was allowed to be.
        think_time_s: How long a person waits between an answer and the next question.
        found: The loads, and how many clients met the goal.
        people: How many people that is.
        plot: The plot, if one was drawn.
    """

    endpoint: str
    models: tuple[str, ...]
    goal_s: float
    think_time_s: float
    found: Found
    people: int
    plot: Path | None = None

    @property
    def sentence(self) -> str:
        """Return the answer in a sentence or two."""
        goal = f"95 % of the answers begin within {self.goal_s:g} s"
        first = self.found.measurements[0]
        if self.found.clients == 0 and first.errors:
            return f"{first.errors} of {first.requests} requests failed with {count(first.clients, 'client')}"
        if self.found.clients == 0:
            return f"not even {count(first.clients, 'client')} at a time: {goal}"
        more = "" if self.found.is_limit else ", and perhaps more: no load was too much"
        return (
            f"{count(self.found.clients, 'client')} at once: {goal}{more}\n"
            f"{self.people} people, if each waits {self.think_time_s:g} s between an answer and the next"
            " question"
        )

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {
            "endpoint": self.endpoint,
            "models": list(self.models),
            "goal_time_to_first_token_p95_s": self.goal_s,
            "clients": self.found.clients,
            "is_limit": self.found.is_limit,
            "is_interrupted": self.found.is_interrupted,
            "think_time_s": self.think_time_s,
            "people": self.people,
            "loads": [asdict(each) for each in self.found.measurements],
            "plot": None if self.plot is None else str(self.plot),
        }

    def to_text(self) -> str:
        """Return the table that people read, and the answer."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        columns = ("clients", "first token p50", "p95", "between tokens p50", "p95", "answer p50", "p95")
        for column in (*columns, "tokens/s", "failed"):
            table.add_column(column, justify="right")
        for each in self.found.measurements:
            times = (each.time_to_first_token_s, each.inter_token_s, each.request_s)
            cells = [cell for found in times for cell in _write_times(found)]
            table.add_row(str(each.clients), *cells, f"{each.tokens_per_s:.0f}", str(each.errors))
        output = io.StringIO()
        console = RichConsole(file=output, width=TEXT_WIDTH, color_system=None)
        console.print(f"{', '.join(self.models)} at {self.endpoint}", soft_wrap=True)
        console.print(table)
        for reason in dict.fromkeys(
            failure.reason for each in self.found.measurements for failure in each.failures
        ):
            console.print(f"failed: {reason}", soft_wrap=True)
        console.print(self.sentence, soft_wrap=True)
        if self.found.is_interrupted:
            console.print("interrupted: the search had not ended")
        if self.plot is not None:
            console.print(f"plot: {self.plot}", soft_wrap=True)
        return "\n".join(line.rstrip() for line in output.getvalue().rstrip().splitlines())


def parse_levels(texts: Sequence[str]) -> tuple[int, ...]:
    """Parse numbers of clients.

    Raises:
        UsageError: One of them is not a number.
    """
    wrong = [text for text in texts if not text.isdecimal()]
    if wrong:
        raise UsageError(f"--clients {wrong[0]!r} is not a number")
    return tuple(map(int, texts))


def bench(
    request: BenchRequest,
    console: Console,
    session: Session | None,
    environment: Mapping[str, str] = os.environ,
) -> Bench:
    """Load the endpoint with more and more clients.

    Raises:
        UsageError: A flag, the file or the stage cannot be used.
        RemoteError: The endpoint does not answer.
        ToolError: A package is missing.
    """
    _check(request)
    try:
        from benchmarks.load import Target  # noqa: PLC0415 - needs a package of the extra `local`
        from benchmarks.users import Goal, Search, count_people, find_users  # noqa: PLC0415 - as above
    except ImportError as error:
        raise ToolError(
            f"the load generator needs the package {error.name}", hint="python3 install.py --extra local"
        ) from error
    endpoint = find_endpoint(request.endpoint, session, environment.get(request.key_variable, ""))
    if endpoint is None:
        raise UsageError("there is no endpoint to load", hint="--stage NAME or --endpoint URL")
    if not endpoint.url.endswith("/v1"):
        raise UsageError(f"{endpoint.url} cannot be loaded", hint="give an address that ends with /v1")
    models = request.models or _choose_model(endpoint)
    prompts = () if request.data is None else _read_prompts(request.data)
    search = Search(
        Goal(request.goal_s), request.max_clients, request.time_limit_s, request.levels, request.requests,
        request.max_tokens, prompts,
    )  # fmt: skip
    target = Target(
        endpoint.url.removesuffix("/v1"),
        models,
        endpoint.api_key,
        tls=trusted_certificates(),
        uses_proxies=not is_on_this_machine(endpoint.url),
    )
    with console.step(f"load {endpoint.url}") as step:
        found = asyncio.run(find_users(target, search, lambda clients: step.update(count(clients, "client"))))
    if all(each.time_to_first_token_s is None for each in found.measurements):
        raise RemoteError(
            f"no request to {endpoint.url} succeeded", details=(found.measurements[0].failures[0].reason,)
        )
    best = next((each for each in found.measurements if each.clients == found.clients), None)
    people = 0 if best is None else count_people(best, request.think_time_s)
    if request.plot is not None:
        _draw(found.measurements, request, request.plot)
    return Bench(endpoint.url, models, request.goal_s, request.think_time_s, found, people, request.plot)


def _check(request: BenchRequest) -> None:
    for flag, number, least in (
        ("--first-token", request.goal_s, 0.001),
        ("--think-time", request.think_time_s, 0),
        ("--max-clients", request.max_clients, 1),
        ("--max-tokens", request.max_tokens, 1),
        *(("--clients", level, 1) for level in request.levels),
    ):
        if number < least:
            raise UsageError(f"{flag} {number:g} is too small; it is at least {least:g}")
    if request.plot is not None and find_spec("matplotlib") is None:
        raise ToolError(
            "--plot needs the package matplotlib", hint="python3 install.py --extra local --extra bench"
        )


def _choose_model(endpoint: Endpoint) -> tuple[str, ...]:
    """Return the last model that is listed: the newest adapter, where there is one."""
    names = asyncio.run(list_models(endpoint))
    if not names:
        raise UsageError(f"{endpoint.url} lists no models", hint="--model NAME")
    return names[-1:]


def _read_prompts(data: Path) -> tuple[str, ...]:
    """Return the last message of each example."""
    last = (example.messages[-1].get("content") for example in read_examples(data))
    prompts = tuple(content for content in last if isinstance(content, str))
    if not prompts:
        raise UsageError(f"{data} has no examples that end with a text")
    return prompts


def _draw(measurements: tuple[Measurement, ...], request: BenchRequest, path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and only the plot needs it

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    known = [(each, times) for each in measurements if (times := each.time_to_first_token_s) is not None]
    clients = [each.clients for each, _ in known]
    left.plot(clients, [times.p95 for _, times in known], marker="o", label="p95")
    left.plot(clients, [times.p50 for _, times in known], marker="s", label="p50")
    left.axhline(request.goal_s, linestyle="--", color="grey", label="goal")
    left.set(xlabel="clients at once", ylabel="time to first token, s")
    left.legend()
    right.plot(clients, [each.tokens_per_s for each, _ in known], marker="o")
    right.set(xlabel="clients at once", ylabel="tokens/s, all clients together")
    for axis in (left, right):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--plot {path} cannot be written: {error}") from error


def _write_times(times: Percentiles | None) -> tuple[str, str]:
    return ("-", "-") if times is None else (f"{times.p50:.3f} s", f"{times.p95:.3f} s")
