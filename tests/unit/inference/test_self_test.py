"""The test of a server by itself, over HTTP, with the whole application."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.responses import JSONResponse

from inference import self_test as module
from inference.api_keys import ApiKey, digest_of
from inference.engines.protocol import ServedModel
from inference.self_test import SelfTest
from inference.server import configure
from inference.service.requests import Limits
from inference.web.keyring import Keyring
from tests.doubles.api_server import BASE, END, ENDED, SETTINGS, TUNED, ApiServer
from tests.doubles.byte_codec import ByteCodec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

COMPLETION = {"choices": [{"text": "x"}], "usage": {"completion_tokens": 1}}


@pytest.fixture
async def api_server() -> AsyncIterator[ApiServer]:
    server = ApiServer(Limits(max_concurrent=2, max_waiting=1), SETTINGS)
    yield server
    await server.close()


@pytest.fixture(autouse=True)
def _immediate_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)


class Answers:
    """An application that gives these answers, the last one again and again."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self.answers = list(answers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, document = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await JSONResponse(document, status)(scope, receive, send)


def served(name: str) -> ServedModel:
    return ServedModel(name, None, ByteCodec(), frozenset({END}), 0)


BASE_MODEL = served(BASE)


def make_test(
    application: ASGIApp, models: Callable[[], tuple[ServedModel, ...]] = lambda: (BASE_MODEL,)
) -> SelfTest:
    return SelfTest(configure(application), models, Keyring(()))


async def failure_of(application: ASGIApp) -> str:
    """Return why the base does not answer."""
    reason = (await make_test(application).run())[BASE]
    assert reason is not None
    return reason


async def test_each_model_answers_a_completion_through_the_whole_server(api_server: ApiServer) -> None:
    api_server.engine.always = (ENDED,)
    service = api_server.service
    self_test = SelfTest(configure(api_server.app), lambda: service.models, api_server.keyring)
    assert await self_test.run() == {BASE: None, TUNED: None}
    requests = api_server.engine.requests
    assert sorted(request.model for request in requests) == [BASE, TUNED]
    assert {(bytes(request.prompt_token_ids), request.max_new_tokens) for request in requests} == {
        (b"Hello", 1)
    }


async def test_each_model_is_tested_once_and_what_is_loaded_again_anew() -> None:
    models = (served("base"), served("tuned"))
    application = Answers((200, COMPLETION), (500, {"error": "no"}), (200, COMPLETION))
    self_test = make_test(application, lambda: models)
    assert self_test.is_due
    first = await self_test.run()
    assert sorted(map(bool, first.values())) == [False, True]
    assert not self_test.is_due
    models = (models[0], served("tuned"), served("new"))
    assert self_test.is_due
    second = await self_test.run()
    # The base keeps its answer: only the last two were asked.
    assert second == {"base": first["base"], "tuned": None, "new": None}
    models = ()
    assert self_test.is_due
    assert await self_test.run() == {}


async def test_the_reason_is_given_for_each_model_that_does_not_answer(api_server: ApiServer) -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/completions":
            raise TypeError(scope["path"])
        await api_server.app(scope, receive, send)

    assert (await failure_of(breaks)).startswith("org/base answers no completion: status 500, Internal")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((401, {"error": "no"}), 'status 401, {"error":"no"}'),
        ((200, {"choices": [], "usage": {"completion_tokens": 1}}), "status 200, "),
        ((200, {"choices": [{}], "usage": {"completion_tokens": 0}}), "status 200, "),
        ((200, []), "status 200, "),
    ],
)
async def test_an_answer_that_is_no_completion_is_the_reason(answer: tuple[int, object], reason: str) -> None:
    assert (await failure_of(Answers(answer))).startswith(f"org/base answers no completion: {reason}")


async def test_an_answer_that_breaks_off_is_the_reason() -> None:
    async def breaks_off(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})

    assert (await failure_of(breaks_off)).startswith("org/base answers no completion: ")


async def test_a_busy_server_is_asked_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Answers((503, {}), (429, {}), (200, COMPLETION))
    assert await make_test(busy).run() == {BASE: None}
    monkeypatch.setattr(module, "BUSY_LIMIT_S", 0.0)
    assert "status 503" in await failure_of(Answers((503, {}), (503, {})))


async def test_a_model_that_is_removed_meanwhile_need_not_answer() -> None:
    states = [(served(BASE),), ()]
    self_test = make_test(Answers((404, {})), lambda: states.pop(0) if len(states) > 1 else states[0])
    assert await self_test.run() == {BASE: None}


def test_a_lent_key_is_valid_while_it_is_lent() -> None:
    keyring = Keyring((ApiKey("ann", digest_of("key-one")),))
    with keyring.lend() as key:
        assert keyring.find(key) == "self-test"
        # Keys that change meanwhile leave it valid.
        keyring.replace(())
        assert keyring.find(key) == "self-test"
        assert keyring.derive_secret("self-test", "sessions") is None
    assert keyring.find(key) is None
