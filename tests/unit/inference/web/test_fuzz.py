"""Arbitrary requests: no internal error, no hang, and a response that the OpenAPI document allows."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from inference.web.responses import Error
from inference.web.schemas import SAMPLING_FIELDS
from tests.doubles.serving import BASE, HELLO, KEY, TUNED, Background

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 60
ERROR_SCHEMA = TypeAdapter(Error).json_schema()
OPERATIONS = (
    ("GET", "/models"), ("GET", "/models/{name}"), ("POST", "/chat/completions"), ("POST", "/completions"),
    ("POST", "/responses"), ("POST", "/messages"), ("POST", "/messages/count_tokens"), ("POST", "/tokenize"),
    ("POST", "/detokenize"),
)  # fmt: skip
PLAIN: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": HELLO}, "/completions": {"prompt": "Once", "n": 1, "best_of": 1},
    "/responses": {"input": "Hello"}, "/messages": {"messages": HELLO},
    "/messages/count_tokens": {"messages": HELLO}, "/detokenize": {"tokens": [1]},
    "/tokenize": {"prompt": "Once", "messages": None, "continue_final_message": None},
}  # fmt: skip
CHECKS = (
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
)  # fmt: skip

bounded = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with Background(body_timeout_s=2.0) as server:
        yield server.port


@pytest.fixture(scope="module")
def document(port: int) -> Any:
    return schemathesis.openapi.from_url(
        f"http://127.0.0.1:{port}/v1/openapi.json", headers={"Authorization": f"Bearer {KEY}"}
    )


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_the_document_allows_and_what_it_does_not(
    document: Any, method: str, path: str, mode: str
) -> None:
    operation = document[path][method]
    cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))
    statuses: set[int] = set()

    @given(case=cases, is_plain=st.booleans())
    @bounded
    def ask(case: Any, is_plain: bool) -> None:  # noqa: FBT001 - hypothesis calls it
        if isinstance(case.body, dict) and mode == "positive":
            # A generated body names no model and is seldom a conversation, so it would be rejected early.
            case.body |= {"model": BASE} | (PLAIN.get(path, {}) if is_plain else {})
        response = case.call(headers={"Authorization": f"Bearer {KEY}"}, timeout=TIMEOUT_S)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    ask()
    # Otherwise only errors would have been validated.
    assert mode == "negative" or 200 in statuses or "{" in path, statuses


def test_the_document_asks_for_a_key_and_knows_no_status_that_is_not_sent(document: Any) -> None:
    raw = document.raw_schema
    assert raw["security"] == [{"key": []}, {"api-key": []}, {"x-api-key": []}]
    assert raw["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path in raw["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
            assert {"400", "401", "404", "408", "413", "429", "503"} <= operation["responses"].keys()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    *SAMPLING_FIELDS, "messages", "prompt", "max_tokens", "stop", "stream", "n", "stream_options",
    "response_format", "tools", "logprobs", "metadata", "user", "model",
)  # fmt: skip
almost_requests = st.builds(
    lambda model, prompt, more: {"model": model, **prompt, **more},
    st.sampled_from((BASE, TUNED)),
    st.sampled_from(({"messages": [{"role": "user", "content": "Hello"}]}, {"prompt": "Once"})),
    st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3),
)
bodies = st.binary(max_size=200) | almost_requests.map(lambda value: json.dumps(value).encode())


@given(
    path=st.sampled_from(("/v1/chat/completions", "/v1/completions")),
    body=bodies,
    content_type=st.sampled_from(
        ("application/json", "text/plain", "application/json; charset=utf-16", "", "é")
    ),
)
@bounded
@example("/v1/chat/completions", b"[" * 15_000, "application/json")
@example("/v1/chat/completions", b'{"model":' * 1_500, "application/json")
@example("/v1/chat/completions", b'{"max_tokens": ' + b"9" * 10_000 + b"}", "application/json")
@example("/v1/completions", b'{"model": "org/base", "prompt": "\\ud800"}', "application/json")
@example("/v1/completions", b'{"model": "org/base", "prompt": "x", "stop": "\\ud800"}', "application/json")
@example("/v1/completions", b'{"model": "\\ud800", "prompt": "x"}', "application/json")
@example("/v1/completions", b'{"model": "org/base", "prompt": "x", "\\ud800": 1}', "application/json")
@example(
    "/v1/completions", b'{"model": "org/base", "prompt": "x", "metadata": {"\\ud800": 1}}', "application/json"
)
@example("/v1/completions", b'{"model": "org/base", "prompt": "x", "temperature": NaN}', "application/json")
@example("/v1/completions", b'{"model": "org/base", "prompt": "x", "top_p": 1e999}', "application/json")
@example(
    "/v1/completions",
    b'{"model": "org/base", "prompt": [1e400, -1, 99999999999999999999]}',
    "application/json",
)
@example("/v1/completions", b"\xff\xfe{\x00}\x00", "application/json")
def test_any_body(port: int, path: str, body: bytes, content_type: str) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    judge(*exchange(port, head.encode("latin-1") + body))


header_bytes = st.binary(max_size=40)


@given(
    target=st.sampled_from((b"/v1/models", b"/v1/chat/completions", b"/", b"/metrics", b"*")) | header_bytes,
    method=st.sampled_from((b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE")) | header_bytes,
    headers=st.lists(st.tuples(header_bytes, header_bytes), max_size=6),
)
@bounded
@example(b"/v1/%ff%00%2e%2e/models", b"GET", [])
@example(b"/v1/models", b"GET", [(b"Authorization", b"Bearer \xff\xfe")])
@example(b"/v1/models", b"GET", [(b"Content-Length", b"-1")])
@example(b"/v1/models", b"GET", [(b"Content-Length", b"9" * 30)])
@example(b"/v1/models", b"GET", [(b"Content-Length", b"1"), (b"Content-Length", b"2")])
@example(b"/v1/models", b"GET", [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"2")])
@example(b"/v1/models", b"GET", [(b"X-Request-Id", b"\xe9" * 30)])
@example(b"/v1/models", b"GET", [(b"traceparent", b"00-x-y-z")])
@example(b"/v1/models", b"GET", [(b"Cookie", b"fjarr_session=1.\xe9.x")])
@example(b"/", b"GET", [(b"Cookie", b"fjarr_session=\xe9.\xe9.\xe9")])
@example(b"/v1/models", b"GET", [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")])
def test_any_head(port: int, target: bytes, method: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: x", b"Connection: close"]
    lines += [name + b": " + value for name, value in headers]
    status, body = exchange(port, b"\r\n".join(lines) + b"\r\n\r\n")
    assert 0 <= status < 500, (status, body)


@given(data=st.binary(max_size=300))
@bounded
def test_any_bytes(port: int, data: bytes) -> None:
    status, body = exchange(port, data, is_over=True)
    assert 0 <= status < 500, (status, body)


def exchange(port: int, data: bytes, *, is_over: bool = False) -> tuple[int, bytes]:
    """Send bytes, and return the status and the body; 0 if the connection was closed instead.

    With `is_over` the client ends its side of the connection, and the server need not answer.
    """
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(data)
        if is_over:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return (int(head.split()[1]), body) if head else (0, b"")


def judge(status: int, body: bytes) -> None:
    """Fail if a response is none of the API's."""
    assert status in {200, 400, 404, 408, 413}, (status, body)
    if status != 200:
        jsonschema.validate(json.loads(body), ERROR_SCHEMA)
