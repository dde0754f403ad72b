"""The test of a server by itself, over HTTP, with the whole application."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.responses import JSONResponse

from inference import self_test as module
from inference.api_keys import ApiKey, digest_of
from inference.errors import LoadError
from inference.self_test import require_completions
from inference.server import configure
from inference.service.requests import Limits
from inference.web.keyring import Keyring
from tests.doubles.api_server import BASE, ENDED, KEY, SETTINGS, TUNED, ApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

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


async def require(application: ASGIApp, names: Iterable[str] = (BASE,)) -> None:
    await require_completions(configure(application), lambda: names, KEY)


async def test_each_model_answers_a_completion_through_the_whole_server(api_server: ApiServer) -> None:
    api_server.engine.always = (ENDED,)
    await require(api_server.app, (BASE, TUNED))
    requests = api_server.engine.requests
    assert sorted(request.model for request in requests) == [BASE, TUNED]
    assert {(bytes(request.prompt_token_ids), request.max_new_tokens) for request in requests} == {
        (b"Hello", 1)
    }


async def test_a_server_whose_completions_fail_is_not_ready(api_server: ApiServer) -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/completions":
            raise TypeError(scope["path"])
        await api_server.app(scope, receive, send)

    with pytest.raises(LoadError, match="org/base answers no completion: status 500, Internal"):
        await require(breaks)


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
    with pytest.raises(LoadError) as error:
        await require(Answers(answer))
    assert str(error.value).startswith(f"org/base answers no completion: {reason}")


async def test_an_answer_that_breaks_off_is_the_reason() -> None:
    async def breaks_off(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})

    with pytest.raises(LoadError, match="org/base answers no completion: "):
        await require(breaks_off)


async def test_a_busy_server_is_asked_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    await require(Answers((503, {}), (429, {}), (200, COMPLETION)))
    monkeypatch.setattr(module, "BUSY_LIMIT_S", 0.0)
    with pytest.raises(LoadError, match="status 503"):
        await require(Answers((503, {}), (503, {})))


async def test_a_model_that_is_removed_meanwhile_need_not_answer() -> None:
    names = [(BASE, TUNED), (BASE,)]
    served = Answers((404, {}))
    served.answers = [(200, COMPLETION), (404, {})]
    await require_completions(configure(served), lambda: names.pop(0) if len(names) > 1 else names[0], KEY)


def test_a_lent_key_is_valid_while_it_is_lent() -> None:
    keyring = Keyring((ApiKey("ann", digest_of("key-one")),))
    with keyring.lend() as key:
        assert keyring.find(key) == "self-test"
        # Keys that change meanwhile leave it valid.
        keyring.replace(())
        assert keyring.find(key) == "self-test"
        assert keyring.derive_secret("self-test", "sessions") is None
    assert keyring.find(key) is None
