"""Metrics, for Prometheus.

Generation metrics use vLLM's names and labels, so that dashboards and alerts made for vLLM work with either
engine. The same numbers are also exported under OpenTelemetry's names, in Prometheus' spelling. Metrics that
neither defines begin with `fjarr_`. No label has a value that a client chooses: models are those that are
served, paths those that exist.

Source: vLLM's documentation, "Production metrics"; OpenTelemetry's GenAI semantic conventions, "Metrics"
(names and buckets), and its "Prometheus and OpenMetrics compatibility" (spelling).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Final, Self

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics

if TYPE_CHECKING:
    from inference.errors import ApiError
    from inference.service.lifecycle import RequestLifecycle
    from inference.service.requests import TextRequest

ENGINE: Final = "0"
"""vLLM numbers its engines; the server has one."""

PROVIDER: Final = "fjarr"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

SECONDS: Final = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    163.84,
)
"""The conventions' buckets for a request's duration, and one more: requests may take 230 s."""

FIRST_TOKEN_SECONDS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
)  # fmt: skip
TOKEN_SECONDS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0
)  # fmt: skip
TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """The metrics by model and engine: the metric families, or the children of one model."""

    running: Gauge
    waiting: Gauge
    prompt_tokens: Counter
    generation_tokens: Counter
    first_token: Histogram
    inter_token: Histogram
    per_token: Histogram
    e2e: Histogram
    queue_time: Histogram
    inference: Histogram
    prefill: Histogram
    decode: Histogram
    request_prompt: Histogram
    request_generation: Histogram

    def of_model(self, model: str) -> Self:
        """Return one model's children of these families."""
        children = (getattr(self, each.name).labels(model, ENGINE) for each in fields(self))
        return type(self)(*children)


class Metrics:
    """The metrics of an application. An observer of the service; the middleware reports HTTP requests to it.

    Args:
        version: The server's version.
        release: The release that runs.
        revision: The container app's revision.
    """

    def __init__(self, version: str, release: str, revision: str) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        build = self._gauge("fjarr_build_info", "What runs.", ("version", "release", "revision"))
        build.labels(version, release, revision).set(1)
        self._make_http()
        # Cached per model: finding a child costs as much as counting, and each token updates some of them.
        self._of_model = cache(self._make_vllm().of_model)
        self._make_gen_ai()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, in the format that the header `Accept` requests.

        The library's own choice escapes the colon of `vllm:` for Prometheus 2, which accepts it.
        """
        if "application/openmetrics-text" in accept:
            # The library has no types here.
            text: bytes = openmetrics.generate_latest(  # type: ignore[no-untyped-call]
                self.registry, openmetrics.ALLOWUTF8
            )
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    def on_queued(self, lifecycle: RequestLifecycle) -> None:
        """Count a request that waits."""
        self._of_model(lifecycle.request.model).waiting.inc()

    def on_admitted(self, lifecycle: RequestLifecycle) -> None:
        """Count a request that runs, and measure its wait."""
        numbers = self._of_model(lifecycle.request.model)
        numbers.waiting.dec()
        numbers.running.inc()
        numbers.prompt_tokens.inc(lifecycle.prompt_tokens)
        numbers.queue_time.observe((lifecycle.admitted_at or 0) - lifecycle.queued_at)

    def on_tokens(self, lifecycle: RequestLifecycle, tokens: int, gap_s: float | None, text: str) -> None:
        """Count tokens and measure their latency."""
        del text
        numbers = self._of_model(lifecycle.request.model)
        numbers.generation_tokens.inc(tokens)
        if gap_s is not None and tokens:
            numbers.inter_token.observe(gap_s / tokens)
        elif tokens and lifecycle.completion_tokens == tokens:
            first_token_s = lifecycle.time_to_first_token_s or 0.0
            numbers.first_token.observe(first_token_s)
            self._gen_ai_first_token.labels(*_gen_ai_labels(lifecycle)).observe(first_token_s)

    def on_finished(self, lifecycle: RequestLifecycle) -> None:
        """Count the outcomes and measure the whole request."""
        model = lifecycle.request.model
        numbers = self._of_model(model)
        (numbers.waiting if lifecycle.admitted_at is None else numbers.running).dec()
        for outcome in lifecycle.outcomes:
            self._success.labels(model, ENGINE, outcome).inc()
        self._measure_request(lifecycle, numbers)

    def on_rejected(self, request: TextRequest, error: ApiError) -> None:
        """Count a request that was not admitted."""
        del request
        self.count_rejection(error.code or "invalid_request")

    def count_rejection(self, reason: str) -> None:
        """Count a rejected request by the code of its error."""
        self._refused.labels(reason).inc()

    def count_http(self, method: str, handler: str, status: int, seconds: float) -> None:
        """Count one HTTP request.

        Args:
            method: The request's method.
            handler: The path's pattern, one of a fixed set.
            status: The response's status; 0 if there was no response.
            seconds: The duration.
        """
        known = method if method in METHODS else "other"
        self._http.labels(known, handler, str(status)).inc()
        self._http_seconds.labels(known, handler).observe(seconds)

    def _measure_request(self, lifecycle: RequestLifecycle, numbers: ModelMetrics) -> None:
        finished_at = lifecycle.finished_at or lifecycle.queued_at
        labels = _gen_ai_labels(lifecycle)
        duration_s = finished_at - lifecycle.queued_at
        numbers.e2e.observe(duration_s)
        self._gen_ai_duration.labels(*labels, lifecycle.error_code or "").observe(duration_s)
        self._gen_ai_tokens.labels(*labels, "input").observe(lifecycle.prompt_tokens)
        if lifecycle.completion_tokens:
            self._gen_ai_tokens.labels(*labels, "output").observe(lifecycle.completion_tokens)
        numbers.request_prompt.observe(lifecycle.prompt_tokens)
        numbers.request_generation.observe(lifecycle.completion_tokens)
        if lifecycle.admitted_at is not None:
            numbers.inference.observe(finished_at - lifecycle.admitted_at)
        if lifecycle.admitted_at is None or lifecycle.first_token_at is None:
            return
        numbers.prefill.observe(lifecycle.first_token_at - lifecycle.admitted_at)
        decode_s = finished_at - lifecycle.first_token_at
        numbers.decode.observe(decode_s)
        if lifecycle.completion_tokens > 1:
            per_token_s = decode_s / (lifecycle.completion_tokens - 1)
            numbers.per_token.observe(per_token_s)
            self._gen_ai_per_token.labels(*labels).observe(per_token_s)

    def _make_http(self) -> None:
        self._http = self._counter(
            "http_requests", "HTTP requests by status.", ("method", "handler", "status")
        )
        self._http_seconds = self._histogram(
            "http_request_duration_seconds", "Duration of HTTP requests.", ("method", "handler"), SECONDS
        )
        self._refused = self._counter(
            "fjarr_requests_refused",
            "Requests that were rejected, by the code of their error.",
            ("reason",),
        )

    def _make_vllm(self) -> ModelMetrics:
        labels = ("model_name", "engine")

        def seconds(name: str, meaning: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return self._histogram(f"vllm:{name}_seconds", meaning, labels, buckets)

        def tokens(name: str, meaning: str) -> Histogram:
            return self._histogram(f"vllm:{name}_tokens", meaning, labels, TOKENS)

        self._success = self._counter(
            "vllm:request_success", "Finished answers, by reason.", (*labels, "finished_reason")
        )
        return ModelMetrics(
            running=self._gauge("vllm:num_requests_running", "Requests that generate.", labels),
            waiting=self._gauge("vllm:num_requests_waiting", "Requests in the queue.", labels),
            prompt_tokens=self._counter("vllm:prompt_tokens", "Tokens of admitted prompts.", labels),
            generation_tokens=self._counter("vllm:generation_tokens", "Tokens of answers.", labels),
            first_token=seconds(
                "time_to_first_token", "From a request's arrival to its first token.", FIRST_TOKEN_SECONDS
            ),
            inter_token=seconds("inter_token_latency", "Time between an answer's tokens.", TOKEN_SECONDS),
            per_token=seconds(
                "request_time_per_output_token",
                "Mean time per token of an answer, after the first.",
                TOKEN_SECONDS,
            ),
            e2e=seconds("e2e_request_latency", "From a request's arrival to its end."),
            queue_time=seconds("request_queue_time", "From a request's arrival to its admission."),
            inference=seconds("request_inference_time", "From a request's admission to its end."),
            prefill=seconds("request_prefill_time", "From a request's admission to its first token."),
            decode=seconds("request_decode_time", "From a request's first token to its end."),
            request_prompt=tokens("request_prompt", "Tokens of a request's prompt."),
            request_generation=tokens("request_generation", "Tokens of a request's answer."),
        )

    def _make_gen_ai(self) -> None:
        labels = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
        self._gen_ai_duration = self._histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request's arrival to its end.",
            (*labels, "error_type"),
            SECONDS,
        )
        self._gen_ai_first_token = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            labels,
            FIRST_TOKEN_SECONDS,
        )
        self._gen_ai_per_token = self._histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time per token of an answer, after the first.",
            labels,
            TOKEN_SECONDS,
        )
        self._gen_ai_tokens = self._histogram(
            "gen_ai_client_token_usage", "Tokens of a request.", (*labels, "gen_ai_token_type"), TOKENS
        )

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)


def operation_of(request: TextRequest) -> str:
    """Return the conventions' name of a request's operation."""
    return "chat" if request.prompt.param == "messages" else "text_completion"


def _gen_ai_labels(lifecycle: RequestLifecycle) -> tuple[str, str, str]:
    return operation_of(lifecycle.request), PROVIDER, lifecycle.request.model
