"""Traces, for OpenTelemetry: a span for each request, with child spans for its queue time and its generation.

Traces are sent if an endpoint is set. A thread sends the spans in batches; if no collector listens they are
dropped with a warning, and requests are not delayed. Spans contain no prompt, answer or key.

Source: OpenTelemetry's GenAI and HTTP semantic conventions; W3C Trace Context.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

from inference.engines.catalogue import has_package
from inference.errors import SettingsError
from inference.observability.metrics import PROVIDER, operation_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from inference.service.lifecycle import RequestContext, RequestLifecycle
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)
SUPPORTED_PROTOCOL: Final = "http/protobuf"
PACKAGES: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
SERVICE_NAME: Final = "fjarr"
FLUSH_S: Final = 3.0
"""How long the process waits at its end for the last spans to be sent."""

NANOSECONDS: Final = 1_000_000_000


class Tracing:
    """The spans of requests, and the exporter that sends them.

    Args:
        provider: OpenTelemetry's tracer provider, with an exporter.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - optional, see `make_tracing`
            TraceContextTextMapPropagator,
        )

        self._provider = provider
        self._tracer = provider.get_tracer("fjarr.inference")
        self._propagator = TraceContextTextMapPropagator()
        # Spans have wall-clock times, lifecycles monotonic ones.
        self._epoch_s = time.time() - time.monotonic()

    def begin(self, method: str, headers: Mapping[str, str]) -> Span:
        """Start a request's span, as a child of the caller's span if the headers name one."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - see above

        parent = self._propagator.extract(headers)
        return self._tracer.start_span(method, context=parent, kind=SpanKind.SERVER)

    def end(self, span: Span, context: RequestContext, method: str, route: str, status: int) -> None:
        """End a request's span and set its attributes.

        Args:
            span: What `begin` returned.
            context: The request.
            method: The request's method.
            route: The pattern of the request's path.
            status: The response's status; 0 if there was no response.
        """
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - see above

        span.update_name(f"{method} {route}")
        span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "fjarr.request_id": context.request_id,
                "fjarr.key": context.key_name,
            }
        )
        for lifecycle in context.lifecycles:
            self._add_generation(span, lifecycle)
        if status >= 500 or status == 0:  # noqa: PLR2004 - server errors
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", _error_type(context, status))
        span.end()

    def close(self) -> None:
        """Send the remaining spans. Takes as long as the collector; for a thread with a timeout."""
        self._provider.shutdown()

    def _add_generation(self, span: Span, lifecycle: RequestLifecycle) -> None:
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - see above

        span.update_name(f"{operation_of(lifecycle.request)} {lifecycle.request.model}")
        span.set_attributes(attributes_of(lifecycle))
        context = set_span_in_context(span)
        finished_at = time.monotonic() if lifecycle.finished_at is None else lifecycle.finished_at
        admitted_at = finished_at if lifecycle.admitted_at is None else lifecycle.admitted_at
        queue = self._tracer.start_span("queue", context, start_time=self._wall_ns(lifecycle.queued_at))
        queue.end(self._wall_ns(admitted_at))
        if lifecycle.admitted_at is None:
            return
        generate = self._tracer.start_span("generate", context, start_time=self._wall_ns(admitted_at))
        if lifecycle.first_token_at is not None:
            generate.add_event("first_token", timestamp=self._wall_ns(lifecycle.first_token_at))
        generate.end(self._wall_ns(finished_at))

    def _wall_ns(self, monotonic_s: float) -> int:
        return int((self._epoch_s + monotonic_s) * NANOSECONDS)


def make_tracing(
    settings: Settings, version: str, is_installed: Callable[[str], bool] = has_package
) -> Tracing | None:
    """Return the tracing that the settings ask for, or None if they set no endpoint.

    Raises:
        SettingsError: If an endpoint is set and the packages are missing.
    """
    if settings.otlp_endpoint is None:
        return None
    if settings.otlp_protocol != SUPPORTED_PROTOCOL:
        # The platform may have set it for all of its apps, so it must not keep the server from starting.
        LOGGER.warning(
            "no traces are sent: OTEL_EXPORTER_OTLP_PROTOCOL is %s, and only %s is supported",
            settings.otlp_protocol,
            SUPPORTED_PROTOCOL,
        )
        return None
    if not all(is_installed(package) for package in PACKAGES):
        problem = (
            "OTEL_EXPORTER_OTLP_ENDPOINT: it is set, and OpenTelemetry's packages are not installed (install"
            " them with: pip install -r inference/requirements-tracing.txt)"
        )
        raise SettingsError((problem,))
    return _make(settings, version)


def attributes_of(lifecycle: RequestLifecycle) -> dict[str, Any]:
    """Return the attributes that the conventions define for a generation."""
    request, sampling = lifecycle.request, lifecycle.request.sampling
    wanted: dict[str, Any] = {
        "gen_ai.operation.name": operation_of(request),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": request.model,
        "gen_ai.response.model": request.model,
        "gen_ai.request.max_tokens": request.max_new_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k or None,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.presence_penalty": sampling.presence_penalty or None,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty or None,
        "gen_ai.usage.input_tokens": lifecycle.prompt_tokens,
        "gen_ai.usage.output_tokens": lifecycle.completion_tokens,
        "gen_ai.response.finish_reasons": list(lifecycle.outcomes),
        "gen_ai.response.time_to_first_chunk": lifecycle.time_to_first_token_s,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _make(settings: Settings, version: str) -> Tracing:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - see above
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - see above

    named = {
        "service.name": SERVICE_NAME,
        "service.version": version,
        "service.instance.id": settings.replica or None,
        "deployment.release": settings.release or None,
    }
    defaults = Resource({name: value for name, value in named.items() if value is not None})
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override the defaults.
    configured = Resource.create()
    if str(configured.attributes.get("service.name", "")).startswith("unknown_service"):
        attributes = {name: each for name, each in configured.attributes.items() if name != "service.name"}
        configured = Resource(attributes)
    provider = TracerProvider(resource=defaults.merge(configured), shutdown_on_exit=False)
    # The exporter reads the endpoint, headers, certificate and timeout from the environment itself.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    LOGGER.info("traces are sent to %s", settings.otlp_endpoint)
    return Tracing(provider)


def _error_type(context: RequestContext, status: int) -> str:
    codes = [lifecycle.error_code for lifecycle in context.lifecycles if lifecycle.error_code]
    return codes[0] if codes else str(status)
