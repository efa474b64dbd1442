"""Decorated answers: whole ones, and streams cut at every place."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message

from server.compose.response.response_fields import ResponseFields, RoutingField
from server.compose.response.response_stream import EventStream, ResponseDecorator
from server.http.senders import StreamGuard

PLAN = {"plan": {"formula": "base + polite"}, "rows": 2}
EVENTS = "".join(
    [
        'data: {"id":"1","model":"e@1","choices":[{"delta":{"content":"schön 🙂"}}]}\n\n',
        ": keep-alive\n\n",
        'data: {"id":"1","model":"e@1","choices":[{"delta":{"content":"\\n\\n"}}]}\r\n\r\n',
        'data: {"id":"1","model":"e@1","choices":[],"usage":{"total_tokens":3}}\n\n',
        "data: [DONE]\n\n",
    ]
).encode()


def fed(stream: EventStream, pieces: list[bytes]) -> list[bytes]:
    """What leaves for each piece, and at the end."""

    async def run() -> list[bytes]:
        return [*[await stream.feed(piece) for piece in pieces], await stream.close()]

    return asyncio.run(run())


def rewritten(
    pieces: list[bytes], routing: RoutingField | None = None, *, hides_usage: bool = False
) -> bytes:
    fields = ResponseFields("kind", PLAN, routing=routing, hides_usage=hides_usage)
    return b"".join(fed(EventStream(fields), pieces))


def chunks(data: bytes) -> list[Any]:
    lines = data.decode().splitlines()
    texts = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def test_first_chunk_and_usage_tell_the_composition() -> None:
    first, second, usage, done = chunks(rewritten([EVENTS]))
    assert [c["model"] for c in (first, second, usage)] == ["kind"] * 3
    assert first["composition"] == usage["composition"] == PLAN
    assert "composition" not in second
    assert done == "[DONE]"
    assert first["choices"][0]["delta"]["content"] == "schön 🙂"
    assert b": keep-alive\n\n" in rewritten([EVENTS])


class Router:
    """Tells its weights, and remembers for which lengths it was asked."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    async def __call__(self, length: int | None) -> dict[str, Any]:
        self.asked.append(length)
        return {"weights": {"polite": 1.0}}


def chunk(index: int, finish: str | None = None) -> str:
    choice = {"index": index, "delta": {"content": "x"}, "finish_reason": finish}
    return "data: " + json.dumps({"model": "e@1", "choices": [choice]}) + "\n\n"


USAGE = 'data: {"model":"e@1","choices":[],"usage":{"completion_tokens":7}}\n\n'
DONE = "data: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 20, 1000])
@pytest.mark.parametrize(
    ("events", "tells", "asked"),
    [
        # With the usage of one answer its length is known, with that of two it is not.
        ([chunk(0), chunk(0, "stop"), USAGE, DONE], 2, 7),
        ([chunk(0), chunk(1), chunk(0, "stop"), chunk(1, "stop"), USAGE, DONE], 4, None),
        # Without it the last chunk tells, and not an earlier one that ends another answer.
        ([chunk(0), chunk(0, "stop"), DONE], 1, None),
        ([chunk(0), chunk(0, "stop"), chunk(1), chunk(1, "stop"), DONE], 3, None),
        ([chunk(0, "length"), DONE], 0, None),
    ],
)
def test_the_last_chunk_tells_the_routing(
    events: list[str], tells: int, asked: int | None, size: int
) -> None:
    router = Router()
    data = "".join(events).encode()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    found = chunks(rewritten(pieces, router))
    assert router.asked == [asked], "the weights are told once only"
    assert found.pop() == "[DONE]"
    told = [number for number, one in enumerate(found) if "routing" in one.get("composition", {})]
    assert told == [tells]
    assert found[tells]["composition"] == {**PLAN, "routing": {"weights": {"polite": 1.0}}}
    assert found[0]["composition"].items() >= PLAN.items()
    assert [one["choices"] for one in found] == [one["choices"] for one in chunks(data)[:-1]]


def test_a_usage_that_is_hidden_tells_the_length() -> None:
    router = Router()
    data = "".join([chunk(0), chunk(0, "stop"), USAGE, DONE]).encode()
    first, last, done = chunks(rewritten([data], router, hides_usage=True))
    assert router.asked == [7]
    assert ("routing" in first["composition"], "routing" in last["composition"]) == (False, True)
    assert done == "[DONE]"


def test_a_chunk_that_waits_leaves_when_the_stream_breaks() -> None:
    router = Router()
    error = 'data: {"error":{"message":"engine died"}}\n\n'
    first, second = chunks(rewritten([(chunk(0, "stop") + error).encode()], router))
    assert (first["model"], first["composition"]) == ("kind", PLAN)
    assert "error" in second
    assert chunks(rewritten([chunk(0, "stop").encode()], router))[0]["model"] == "kind"
    assert router.asked == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_it_does_not_matter_where_the_pieces_end(size: int) -> None:
    pieces = [EVENTS[start : start + size] for start in range(0, len(EVENTS), size)]
    assert rewritten(pieces) == rewritten([EVENTS])


def test_events_leave_as_soon_as_they_are_complete() -> None:
    stream = EventStream(ResponseFields("kind", None))
    pieces = [b'data: {"model":"e"}\n', b"\nda", b"ta: [DONE]\n\n"]
    assert fed(stream, pieces) == [
        b"",
        b'data: {"model":"kind"}\n\n',
        b"data: [DONE]\n\n",
        b"",
    ]


@pytest.mark.parametrize(
    "event",
    [
        'data: {"error":{"message":"engine died","code":500}}\n\n',
        "data: {not json\n\n",
        "data: [1,2]\n\n",
        "event: ping\n\n",
        ": comment\n\n",
        'data: {"model":"e@1","cho',
    ],
)
def test_what_is_not_a_chunk_passes_unchanged(event: str) -> None:
    assert rewritten([event.encode()]) == event.encode()


def test_other_fields_of_an_event_stay() -> None:
    out = rewritten([b'event: x\nid: 7\ndata: {"model":"e"}\n\n'])
    assert out.startswith(b"event: x\nid: 7\ndata: {")


async def _sent(
    status: int,
    kind: bytes,
    bodies: list[bytes],
    path: str = "/v1/chat/completions",
    *,
    ends: bool = True,
) -> tuple[StreamGuard, list[Message]]:
    out: list[Message] = []

    async def send(message: Message) -> None:
        out.append(message)

    guard = StreamGuard(send, path)
    sender = ResponseDecorator(guard, ResponseFields("kind", PLAN))
    headers = [(b"content-type", kind), (b"content-length", b"%d" % sum(map(len, bodies)))]
    await sender({"type": "http.response.start", "status": status, "headers": headers})
    for number, body in enumerate(bodies, start=1):
        more = number < len(bodies) or not ends
        await sender({"type": "http.response.body", "body": body, "more_body": more})
    return guard, out


def sent(status: int, kind: bytes, bodies: list[bytes]) -> list[Message]:
    return asyncio.run(_sent(status, kind, bodies))[1]


def test_a_whole_answer_has_the_right_length() -> None:
    answer = {"id": "1", "model": "e@1", "choices": [{"text": "schön"}], "usage": None}
    data = json.dumps(answer).encode()
    start, body = sent(200, b"application/json", [data[:10], data[10:]])
    assert json.loads(body["body"]) == answer | {"model": "kind", "composition": PLAN}
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])


@pytest.mark.parametrize(("answers", "length"), [(1, 5), (2, None)])
def test_a_whole_answer_tells_routing_and_comparison(answers: int, length: int | None) -> None:
    router = Router()

    async def comparison() -> dict[str, Any]:
        return {"polite": {"choices": []}}

    async def run() -> dict[str, Any]:
        told = {"choices": [{}] * answers, "usage": {"completion_tokens": 5}, "model": "e"}
        response_fields = ResponseFields("kind", PLAN, {"polite": "d"}, router, comparison)
        return await response_fields.annotate(told)

    answer = asyncio.run(run())
    assert router.asked == [length]
    assert answer["composition"] == {**PLAN, "routing": {"weights": {"polite": 1.0}}}
    assert answer["comparison"] == {"polite": {"choices": []}}
    assert (answer["model"], answer["adapters"]) == ("kind", {"polite": "d"})
    assert "routing" not in PLAN


def test_errors_pass_unchanged() -> None:
    error = b'{"error": {"message": "no", "code": 400}, "model": "e"}'
    start, body = sent(400, b"application/json", [error])
    assert (start["status"], body["body"]) == (400, error)


def test_every_event_of_a_stream_is_sent_at_once() -> None:
    events = [b'data: {"model":"e"}\n\n', b"data: [DONE]\n\n", b""]
    _, first, done, end = sent(200, b"text/event-stream; charset=utf-8", events)
    assert b'"kind"' in first["body"]
    assert done["body"] == b"data: [DONE]\n\n"
    assert not end["more_body"]


@pytest.mark.parametrize(
    ("path", "refusal", "start", "told"),
    [
        ("/v1/chat/completions", None, b"data: ", ("error", "code", "engine_fault")),
        ("/v1/messages", None, b"event: error\ndata: ", ("error", "type", "api_error")),
        ("/v1/responses", None, b"event: error\ndata: ", ("code", "engine_fault")),
        ("/v1/responses", "no such token", b"event: error\ndata: ", ("message", "no such token")),
        ("/v1/completions", "no such token", b"data: ", ("error", "type", "invalid_request_error")),
    ],
)
def test_a_stream_that_fails_ends_with_an_error_event(
    path: str, refusal: str | None, start: bytes, told: tuple[str, ...]
) -> None:
    async def run() -> list[Message]:
        event = b'data: {"model":"e"}\n\n'
        kind = b"text/event-stream"
        guard, out = await _sent(200, kind, [event, event, event], path, ends=False)
        assert guard.streaming
        await guard.fail(refusal)
        return out

    last = asyncio.run(run())[-1]
    assert not last["more_body"]
    assert last["body"].startswith(start)
    value = chunks(last["body"])[0]
    *place, expected = told
    for name in place:
        value = value[name]
    assert value == expected


def test_a_guard_knows_how_far_an_answer_has_come() -> None:
    for kind in (b"application/json", b"text/event-stream"):
        guard, _ = asyncio.run(_sent(200, kind, [b"{}"]))
        assert (guard.begun, guard.streaming) == (True, False)
    guard, out = asyncio.run(_sent(200, b"application/json", [b"{}"], ends=False))
    assert (guard.begun, out) == (False, []), "a whole answer waits for its end"


def test_errors_do_not_tell_the_engines_names() -> None:
    response_fields = ResponseFields("kind", None, aliases={"polite@0123456789ab": "polite"})
    event = b'data: {"error":{"message":"no polite@0123456789ab"}}\n\n'
    (out, _) = fed(EventStream(response_fields), [event])
    assert out == b'data: {"error":{"message":"no polite"}}\n\n'
