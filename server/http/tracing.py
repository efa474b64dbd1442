"""OpenTelemetry spans with what a request composed, if `--otlp-traces-endpoint` is set.

vLLM creates the span of a request after the request, and accepts no attributes for it. Our span
encloses vLLM's `llm_request` and is a child of the span that the client names.
"""

from __future__ import annotations

from opentelemetry.trace import Span, SpanKind, get_tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.auth.access_control import route_of
from server.engine.port import Kind
from server.request_record import ScoringKind, record_of

SPAN = "composer.request"

_TRACED = frozenset(kind.value for kind in (*Kind, *ScoringKind)) - {
    kind.value for kind in Kind if not kind.generates
}
_W3C = TraceContextTextMapPropagator()


class TracingMiddleware:
    """ASGI middleware: opens a span around each request for generated text or for scores."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tracer = get_tracer("composer")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_of(scope) not in _TRACED:
            await self._app(scope, receive, send)
            return
        context = _W3C.extract(dict(Headers(scope=scope)))
        with self._tracer.start_as_current_span(SPAN, context, SpanKind.SERVER) as span:
            trace_headers: dict[str, str] = {}
            _W3C.inject(trace_headers)
            names = {name.encode() for name in trace_headers}
            headers = [(k, v) for k, v in scope["headers"] if k.lower() not in names]
            headers += [(name.encode(), value.encode()) for name, value in trace_headers.items()]
            try:
                await self._app({**scope, "headers": headers}, receive, send)
            finally:
                _describe(span, scope)


def _describe(span: Span, scope: Scope) -> None:
    record = record_of(scope)
    span.set_attribute("composer.request_id", record.id)
    if record.formula is not None:
        span.set_attribute("composer.formula", record.formula)
        span.set_attribute("composer.rows", record.rows)
        span.set_attribute("composer.adapters", record.adapters)
    if record.texts:
        span.set_attribute("composer.texts", record.texts)
        span.set_attribute("composer.scored_tokens", record.scored_tokens)
