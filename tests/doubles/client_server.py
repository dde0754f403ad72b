# ruff: noqa: PLC0415 - one of the two kinds needs torch, which takes seconds
"""A server in a process of its own, for the tests of clients, which run in environments of their own.

    python -m tests.doubles.client_server scripted      scripted models with chat templates and tools
    python -m tests.doubles.client_server tiny FOLDER   a random network, saved in FOLDER, and its real engine

It prints its address when it is ready, and ends when its standard input does. Beside the application it
answers `/control`: there a test gives the answers of the next requests and reads the prompts of past ones, or
has choices scored by the plain network.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    Close = Callable[[], Awaitable[None]]
    Handler = Callable[[Request], Awaitable[Response]]

CONTEXT = 20_000
UNSCRIPTED = "No answer is left."


def scripted() -> tuple[Any, dict[str, Handler], Close]:
    """Return the application with scripted models, the handlers of `/control`, and what closes it."""
    from tests.doubles.tool_server import ToolServer

    server = ToolServer(CONTEXT)
    server.engine.always = (tuple(server.codecs["hermes"].encode(UNSCRIPTED)), server.end)
    seen = 0

    async def script(request: Request) -> Response:
        """Script the answers of the next requests, and forget earlier ones."""
        nonlocal seen
        body = await request.json()
        server.engine.forget_scripts()
        seen = len(server.engine.requests)
        for answer in body["answers"]:
            server.play(answer, size=7, model=body["model"])
        return JSONResponse({})

    async def requests(_: Request) -> Response:
        """Return what the engine was given since the answers were scripted."""
        engine = server.engine
        return JSONResponse([
            {"prompt": server.prompt(index), "has_grammar": engine.requests[index].grammar is not None}
            for index in range(seen, len(engine.requests))
        ])  # fmt: skip

    return server.app, {"script": script, "requests": requests}, server.close


def tiny(folder: Path) -> tuple[Any, dict[str, Handler], Close]:
    """Return the application with a random network, a handler that scores without it, and what closes it."""
    from inference.engines.registry import start_engine
    from inference.models.weights import find_weights
    from inference.service.requests import Limits
    from inference.service.service import Service
    from inference.settings import Settings
    from inference.web.application import ChatPage, Identity, make_application
    from tests.doubles.plain_network import score_continuation
    from tests.doubles.tiny import BASE, byte_tokenizer, load_base, save_base

    save_base(folder, byte_tokenizer("<end>"), seed=2)
    settings = Settings(dtype="float32", device="cpu", auth=False, kv_cache_tokens=4096, threads=1)
    started = start_engine(find_weights(folder, BASE, None), settings, lambda _phase, _percent: None)
    engine = started.engine
    service = Service(Limits())
    service.begin_serving(engine, started.models)
    app = make_application(service, settings, Identity("", "", "", ""), ChatPage(service))
    tokenizer, network = byte_tokenizer("<end>"), load_base(folder).eval()

    async def score(request: Request) -> Response:
        """Return the log-likelihood of a continuation after a context, and whether it is the greedy one."""
        body = await request.json()
        context, continuation = (tokenizer.encode(body[name]) for name in ("context", "continuation"))
        likelihood, is_greedy = score_continuation(network, context, continuation)
        return JSONResponse({"likelihood": likelihood, "is_greedy": is_greedy})

    return app, {"score": score}, engine.close


async def serve(application: Any, handlers: dict[str, Handler], close: Close) -> None:
    """Serve on a free port of the loopback interface until standard input ends."""
    routes = [
        Route(f"/control/{name}", handler, methods=["GET", "POST"]) for name, handler in handlers.items()
    ]
    app = Starlette(routes=[*routes, Mount("/", application)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="warning", ws="none"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)  # noqa: T201 - the test that started it reads this
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving
    await close()


def main() -> None:
    """Serve what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.doubles.client_server")
    parser.add_argument("kind", choices=("scripted", "tiny"))
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()

    async def run() -> None:
        await serve(*(scripted() if arguments.kind == "scripted" else tiny(arguments.folder)))

    asyncio.run(run())


if __name__ == "__main__":
    main()
