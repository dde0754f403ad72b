"""Traces, sent to a small collector on loopback that understands what it gets."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from inference.errors import SettingsError
from inference.observability.logs import JsonFormatter
from inference.observability.tracing import Tracing, make_tracing
from inference.settings import Settings, load_settings
from tests.doubles.serving import BASE, END, ENDED, KEY, TUNED, Served, until

if TYPE_CHECKING:
    from collections.abc import Iterator

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """Take spans over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, Any] = {}
        self.paths: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = attributes(each.resource)
            for scope in each.scope_spans:
                self.spans += scope.spans

    def named(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def attributes(owner: Any) -> dict[str, Any]:
    return {each.key: plain(each.value) for each in owner.attributes}


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return (
        [plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
    )


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def tracing_to(url: str, monkeypatch: pytest.MonkeyPatch) -> Tracing:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    settings = load_settings({"FJARR_API_KEYS": KEY, "OTEL_EXPORTER_OTLP_ENDPOINT": url})
    tracing = make_tracing(settings, "0.1.0")
    assert tracing is not None
    return tracing


async def close(tracing: Tracing) -> None:
    await asyncio.to_thread(tracing.close)


async def test_a_request_is_a_span_with_its_wait_and_its_answer_below(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = tracing_to(collector.url, monkeypatch)
    served = Served(tracing=tracing)
    served.engine.play(b"a private", b" answer", (END,))
    response = await served.chat(
        model=TUNED,
        headers={"traceparent": PARENT, "x-request-id": "abc-1"},
        temperature=0.5,
        max_tokens=50,
        messages=[{"role": "user", "content": "a private question"}],
    )
    assert response.status_code == 200
    await close(tracing)
    assert set(collector.paths) == {"/v1/traces"}
    server, queue, generate = (collector.named(name) for name in (f"chat {TUNED}", "queue", "generate"))
    assert server.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert server.parent_span_id.hex() == "b7ad6b7169203331"
    assert server.kind == server.SPAN_KIND_SERVER
    for child in (queue, generate):
        assert (child.trace_id, child.parent_span_id) == (server.trace_id, server.span_id)
    having = attributes(server)
    assert having.pop("gen_ai.response.time_to_first_chunk") > 0
    assert having == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "fjarr.request_id": "abc-1", "fjarr.key": "ann",
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "fjarr", "gen_ai.request.model": TUNED,
        "gen_ai.response.model": TUNED, "gen_ai.request.max_tokens": 50, "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.usage.input_tokens": len("user: a private question\nassistant: "),
        "gen_ai.usage.output_tokens": 17, "gen_ai.response.finish_reasons": ["stop"],
    }  # fmt: skip
    assert [event.name for event in generate.events] == ["first_token"]
    first_token_at = generate.events[0].time_unix_nano
    times = [server.start_time_unix_nano, queue.start_time_unix_nano, queue.end_time_unix_nano]
    times += [first_token_at, generate.end_time_unix_nano, server.end_time_unix_nano]
    # The wall clock and the monotonic one are read at different moments, less than a millisecond apart.
    assert all(later >= earlier - 1_000_000 for earlier, later in itertools.pairwise(times))
    assert collector.resource["service.name"] == "fjarr"
    assert collector.resource["service.version"] == "0.1.0"
    assert "private" not in str(collector.spans)
    assert KEY not in str(collector.spans)
    await served.close()


async def test_a_failed_request_s_span_says_so(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-model")
    tracing = tracing_to(collector.url, monkeypatch)
    served = Served(tracing=tracing)
    served.engine.play(b"half", asyncio.Event())
    task = asyncio.create_task(served.chat())
    await until(lambda: served.engine.generated_tokens == 4)
    served.engine.die()
    assert (await task).status_code == 503
    await served.chat(key="wrong")
    await served.get("/healthz")
    await close(tracing)
    failed = collector.named(f"chat {BASE}")
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert attributes(failed)["error.type"] == "engine_failed"
    # A stranger's request is the stranger's fault, and a probe's is nobody's business.
    refused = collector.named("POST other")
    assert refused.status.code == refused.status.STATUS_CODE_UNSET
    assert attributes(refused)["http.response.status_code"] == 401
    assert len(collector.spans) == 4
    assert collector.resource["service.name"] == "my-model"
    await served.close()


async def test_log_lines_of_a_request_bear_its_trace(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracing = tracing_to(collector.url, monkeypatch)
    served = Served(tracing=tracing)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(JsonFormatter().format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("inference.access")
    caplog.set_level("INFO", logger="inference.access")
    logger.addHandler(handler)
    served.engine.play(ENDED)
    await served.chat(headers={"traceparent": PARENT})
    logger.removeHandler(handler)
    assert '"trace_id": "0af7651916cd43dd8448eb211c80319c"' in lines[0]
    await close(tracing)
    await served.close()


async def test_a_dead_collector_costs_requests_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collector = Collector()
    collector.close()
    tracing = tracing_to(collector.url, monkeypatch)
    served = Served(tracing=tracing)
    # Each attempt to send takes up to a second, as tests have it.
    async with asyncio.timeout(10):
        for _ in range(40):
            served.engine.play(ENDED)
            assert (await served.chat()).status_code == 200
    async with asyncio.timeout(60):
        await close(tracing)
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")]
    await served.close()


def test_without_an_endpoint_there_are_no_traces() -> None:
    assert make_tracing(Settings(), "0.1.0") is None


def test_missing_packages_are_a_problem_of_the_settings() -> None:
    settings = Settings(otlp_endpoint="http://collector:4318")
    with pytest.raises(SettingsError) as caught:
        make_tracing(settings, "0.1.0", lambda _: False)
    (problem,) = caught.value.problems
    assert problem == (
        "OTEL_EXPORTER_OTLP_ENDPOINT: it is set, and OpenTelemetry's packages are not installed (install them"
        " with: pip install -r inference/requirements-tracing.txt)"
    )


def test_an_unsupported_protocol_does_not_stop_the_server(caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(
        {
            "FJARR_API_KEYS": KEY,
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://agent:4317",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }
    )
    assert make_tracing(settings, "0.1.0") is None
    assert caplog.messages == [
        "no traces are sent: OTEL_EXPORTER_OTLP_PROTOCOL is grpc, and only http/protobuf is supported"
    ]


def test_the_more_special_endpoint_has_the_last_word() -> None:
    settings = load_settings(
        {
            "FJARR_API_KEYS": KEY,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces/x",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all",
        }
    )
    assert settings.otlp_endpoint == "http://traces/x"
