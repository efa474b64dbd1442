"""The span of a request, through OpenTelemetry's own provider."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.types import Message, Receive, Scope, Send

from composer.plan import Member, Plan
from composer.prompts import TextPrompt
from server.http.tracing import SPAN, TracingMiddleware
from server.request_record import begin_record, record_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of a test end up."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def ask(path: str, headers: dict[str, str], plan: Plan | None, **counts: int) -> dict[str, str]:
    """Send a request through the middleware; the headers that vLLM gets."""
    seen: dict[str, str] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update((k.decode(), v.decode()) for k, v in scope["headers"])
        if plan is not None:
            record_of(scope).note_resolution("formula", "sum", plan, ["polite"])
        for name, count in counts.items():
            setattr(record_of(scope), name, count)

    async def nothing(*_: Message) -> Any:
        raise AssertionError("the middleware neither reads nor answers")

    raw = [(k.encode(), v.encode()) for k, v in headers.items()]
    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": raw}
    begin_record(scope)
    asyncio.run(TracingMiddleware(app)(scope, nothing, nothing))
    return seen


def test_a_composed_request(spans: InMemorySpanExporter) -> None:
    members = (Member("base"), Member("polite", TextPrompt("secret")))
    plan = Plan(members, weights=(1.0, 0.5))
    given = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "r1"}
    seen = ask("/v1/chat/completions", given, plan)
    span: ReadableSpan
    (span,) = spans.get_finished_spans()
    assert span.name == SPAN
    assert span.attributes == {
        "composer.request_id": "r1",
        "composer.formula": "base + 0.5*polite[...]",
        "composer.rows": 2,
        "composer.adapters": ("polite",),
    }
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == PARENT
    context = span.get_span_context()
    assert context is not None
    assert seen["traceparent"] == f"00-{TRACE}-{context.span_id:016x}-01"
    assert seen["x-request-id"] == "r1"


def test_a_request_for_scores(spans: InMemorySpanExporter) -> None:
    ask("/v1/compose/score", {}, Plan((Member("polite"),), (1.0,)), texts=3, scored_tokens=40)
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    shown = {name: span.attributes[f"composer.{name}"] for name in ("texts", "scored_tokens")}
    assert shown == {"texts": 3, "scored_tokens": 40}


def test_a_plain_request_and_another_route(spans: InMemorySpanExporter) -> None:
    ask("/v1/completions", {}, None)
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert set(span.attributes) == {"composer.request_id"}
    assert "traceparent" not in ask("/v1/models", {}, None)
    assert len(spans.get_finished_spans()) == 1
