# ruff: noqa: T201 - the result of a command line goes to stdout
"""Put load on an OpenAI-compatible server and measure its responses.

A closed loop: each client sends a streamed chat completion, reads it to its end and sends the next, until
all requests are sent. Received data is stored with its time and parsed after the load: the generator shares
its processors with the server that it measures.

    python -m benchmarks.load http://127.0.0.1:8000 --model NAME --clients 8 --requests 32
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from benchmarks import command_line
from benchmarks.measures import Measurement, summarize
from benchmarks.prompts import make_prompts
from benchmarks.sse import RawResponse, read_sample

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Sequence

HTTP_OK: Final = 200
WARM_UP_TOKENS: Final = 16
SHOWN_BODY: Final = 200
LIST_LIMIT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """The server to put load on, and the models that requests name.

    Attributes:
        address: `http://host:port`, without `/v1`.
        models: The models that requests name, in rotation.
        api_key: Sent as a bearer token, unless it is empty.
        fields: Additional fields of a request's body.
        keeps_connections: Whether the server takes several requests on a connection.
        tls: The certificates to trust; None for the system's.
        uses_proxies: Whether the environment's proxies are asked.
    """

    address: str
    models: tuple[str, ...]
    api_key: str = field(default="", repr=False)
    fields: tuple[tuple[str, Any], ...] = ()
    keeps_connections: bool = True
    tls: ssl.SSLContext | None = None
    uses_proxies: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """The number and length of requests.

    Attributes:
        requests: The total number of requests; at least one a client.
        max_tokens: The length of an answer; a model may end its answers earlier.
        warm_up: The number of requests that are sent before and not measured.
        time_limit_s: The time without data after which a request fails.
        prompts: What the clients ask, in rotation; empty makes up texts, which are all different.
    """

    clients: int
    requests: int
    max_tokens: int = 64
    warm_up: int = 0
    time_limit_s: float = 240.0
    prompts: tuple[str, ...] = ()


async def run_load(target: Target, load: Load, seed: str) -> Measurement:
    """Warm up, run the load, and summarise it. The prompts depend only on the seed."""
    async with _session(target, load.time_limit_s) as session:
        if load.warm_up:
            max_tokens = min(WARM_UP_TOKENS, load.max_tokens)
            bodies = _bodies(target, _prompts(load, load.warm_up, f"{seed}-warm-up"), max_tokens)
            await _send_all(session, target, bodies, load.clients)
        bodies = _bodies(target, _prompts(load, load.requests, seed), load.max_tokens)
        cpu_s = time.process_time()
        responses = await _send_all(session, target, bodies, load.clients)
        cpu_s = time.process_time() - cpu_s
    return summarize([read_sample(response) for response in responses], load.clients, cpu_s)


async def list_models(target: Target) -> tuple[str, ...]:
    """Return the models that a server lists.

    Raises:
        aiohttp.ClientError: If the request fails.
    """
    async with (
        _session(target, LIST_LIMIT_S) as session,
        session.get(f"{target.address}/v1/models", raise_for_status=True) as response,
    ):
        return tuple(model["id"] for model in (await response.json())["data"])


def _session(target: Target, time_limit_s: float) -> aiohttp.ClientSession:
    headers = {"Content-Type": "application/json"}
    if target.api_key:
        headers["Authorization"] = f"Bearer {target.api_key}"
    return aiohttp.ClientSession(
        headers=headers,
        connector=aiohttp.TCPConnector(
            limit=0, force_close=not target.keeps_connections, ssl=target.tls or True
        ),
        trust_env=target.uses_proxies,
        timeout=aiohttp.ClientTimeout(total=None, sock_read=time_limit_s),
    )


def _prompts(load: Load, count: int, seed: str) -> Sequence[str]:
    if load.prompts:
        return [load.prompts[index % len(load.prompts)] for index in range(count)]
    return make_prompts(count, seed)


def _bodies(target: Target, prompts: Sequence[str], max_tokens: int) -> Sequence[bytes]:
    """Encode all requests before the first is sent."""
    return [
        json.dumps(
            {
                "model": target.models[index % len(target.models)],
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": max_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                **dict(target.fields),
            }
        ).encode()
        for index, prompt in enumerate(prompts)
    ]


async def _send_all(
    session: aiohttp.ClientSession, target: Target, bodies: Sequence[bytes], clients: int
) -> list[RawResponse]:
    queue = iter(bodies)
    responses: list[RawResponse] = []
    address = f"{target.address}/v1/chat/completions"
    await asyncio.gather(*(_run_client(session, address, queue, responses) for _ in range(clients)))
    return responses


async def _run_client(
    session: aiohttp.ClientSession, address: str, queue: Iterator[bytes], responses: list[RawResponse]
) -> None:
    for body in queue:
        responses.append(await _send(session, address, body))  # noqa: PERF401 - all clients share the list


async def _send(session: aiohttp.ClientSession, address: str, body: bytes) -> RawResponse:
    clock = time.perf_counter
    pieces: list[tuple[float, bytes]] = []
    failure = None
    started_s = clock()
    try:
        async with session.post(address, data=body) as response:
            async for piece in response.content.iter_any():
                pieces.append((clock(), piece))  # noqa: PERF401 - pieces before a failure are kept
            if response.status != HTTP_OK:
                failure = f"status {response.status}: {_shown(pieces)}"
    except TimeoutError:
        failure = "the stream was silent for too long"
    except aiohttp.ClientError as error:
        failure = f"{type(error).__name__}: {error}"
    return RawResponse(started_s, clock(), tuple(pieces), failure)


def _shown(pieces: Sequence[tuple[float, bytes]]) -> str:
    return b"".join(piece for _, piece in pieces)[:SHOWN_BODY].decode(errors="replace")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description="Put load on a server.")
    parser.add_argument("address", help="http://host:port, without /v1")
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="may be repeated: requests name the models in rotation",
    )
    parser.add_argument("--clients", type=command_line.count, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--requests", type=command_line.count, default=None, help="default: two a client, at least eight"
    )
    parser.add_argument("--max-tokens", type=command_line.count, default=64)
    parser.add_argument("--warm-up", type=int, default=None, help="requests; default: one a client")
    parser.add_argument("--seed", default="load")
    parser.add_argument(
        "--api-key-variable",
        default="FJARR_BENCH_KEY",
        help="the environment variable that holds the API key",
    )
    return parser.parse_args()


def main() -> int:
    """Run the loads of the command line, print their measurements as JSON, and return the exit code."""
    arguments = _parse_arguments()
    key = os.environ.get(arguments.api_key_variable, "")
    target = Target(arguments.address.rstrip("/"), tuple(arguments.model), key)
    measurements = []
    for clients in arguments.clients:
        requests = max(clients, arguments.requests or max(8, 2 * clients))
        warm_up = clients if arguments.warm_up is None else arguments.warm_up
        load = Load(clients, requests, arguments.max_tokens, warm_up)
        measurements.append(asyncio.run(run_load(target, load, f"{arguments.seed}-{clients}")))
    print(json.dumps([asdict(measurement) for measurement in measurements], indent=2))
    if any(each.errors < each.requests for each in measurements):
        return 0
    reason = measurements[0].failures[0].reason
    print(f"error: no request to {target.address} succeeded: {reason}", file=sys.stderr)
    return command_line.NO_TOOL


if __name__ == "__main__":
    command_line.run(main)
