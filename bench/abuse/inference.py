"""Attacks on inference routes: bodies that are too large, too deep, or reserved to the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bench.abuse.attack import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    Attack,
    chat,
    completion,
)
from composer.engine_plan import RESERVED_ARGS

LIMIT = 10_000
FORMULA = "chat + 0.8*(polite - rude)"


def inference_attacks() -> Iterator[Attack]:
    """Yield all attacks on inference."""
    yield from internal_names()
    yield from compositions()
    yield from constraints()
    yield from sampling()
    yield from formats()


def internal_names() -> Iterator[Attack]:
    """Yield bodies with fields that only the server may write."""
    for name in sorted(RESERVED_ARGS):
        for value in ("x", {"members": 1}, 7, [1, "a"]):
            arguments = {"vllm_xargs": {name: value}}
            label = f"vllm_xargs {name}={value!r}"[:50]
            yield Attack(f"completions: {label}", COMPLETIONS, completion(**arguments))
            yield Attack(f"chat: {label}", CHAT, chat(**arguments))
    row = {"vllm_xargs": {"composition_row": "x"}}
    yield Attack("responses: composition_row", RESPONSES, {"model": "base", "input": "a", **row})
    yield Attack(
        "messages: composition_row", MESSAGES, chat(model="base", **row), harmless=True
    )  # the route has no such field
    yield Attack("invocations: composition_row", "/invocations", completion(**row))
    yield Attack(
        "extra_args", COMPLETIONS, completion(extra_args={"composition_row": "x"}), harmless=True
    )


def compositions() -> Iterator[Attack]:
    """Yield compositions that are too long or deep, or whose numbers are not finite."""
    members = [{"model": "chat", "weight": 0.5}]
    keep = {"kind": "plausibility", "model": "chat", "value": 0.1}
    huge = "x" * (30 << 20)
    for name, composition in {
        "100,000 members": {"members": members * 100_000},
        "400,000 filters": {"members": members, "filters": [keep] * 400_000},
        "10,000 members": {"members": members * 10_000},
        "10,000 filters": {"members": members, "filters": [keep] * 10_000},
        "10,000 experts": {"recipe": "mixture", "experts": ["chat"] * 10_000},
        "10,000 routers that vote": {
            "recipe": "mixture",
            "experts": ["chat", "polite"],
            "router": {"kind": "vote", "routers": [{"router": {"kind": "confidence"}}] * 10_000},
        },
        "weight infinite": {"members": [{"model": "chat", "weight": float("inf")}]},
        "weight no number": {"members": [{"model": "chat", "weight": float("nan")}]},
        "weight 1e308": {"members": [{"model": "chat", "weight": 1e308}]},
        "weight of a thousand digits": {"members": [{"model": "chat", "weight": 10**1000}]},
        "a formula of 10,000 sums": "chat" + " + chat" * 10_000,
        "10,000 signs": "-" * 10_000 + "chat",
        "a formula of 1e999": "1e999*chat",
        "a division by zero": "chat/0",
        "a power": "chat**99999999",
        "a name of 1 MB": "x" * 1_000_000,
        "a name with a line break": "'chat\r\nX-Evil: 1'",
        "a name that climbs": "'../../etc/passwd'",
        "a stored name that climbs": {"recipe": "../../../etc/passwd"},
        "a member prompt of 10,000 messages": {
            "members": [
                {"model": "chat", "messages": [{"role": "user", "content": "a"}] * LIMIT},
                {"model": "polite"},
            ]
        },
        "a member prompt with invalid token ids": {
            "members": [
                {"model": "chat", "prompt_token_ids": [-1, 2**40]},
                {"model": "polite"},
            ]
        },
    }.items():
        yield Attack(f"composition: {name}", CHAT, chat(composition=composition))
    for depth in (100, 300, 900, 5_000, 200_000):
        for name, value in {
            "composition": nested('{"members":[', "", "]}", depth),
            "list in a field": nested("[", "", "]", depth),
            "vote": '{"recipe":"mixture","experts":["chat","polite"],"router":'
            + nested('{"kind":"vote","routers":[{"router":', '{"kind":"confidence"}', "}]}", depth)
            + "}",
            "formula": f'"{nested("(", "chat", ")", depth)}"',
        }.items():
            body = json.dumps(chat(composition=0)).replace(": 0}", f": {value}}}").encode()
            yield Attack(f"{name}, {depth} deep", CHAT, body)
    yield Attack("a model of 30 MB", CHAT, chat(model=huge))
    yield Attack("a model of 900 kB", CHAT, chat(model=huge[:900_000]))
    yield Attack("a formula of 900 kB as the model", CHAT, chat(model="chat+" * 180_000 + "chat"))
    yield Attack("a prompt of 30 MB", COMPLETIONS, completion(prompt=huge))
    yield Attack("a prompt of 900 kB", COMPLETIONS, completion(prompt=huge[:900_000]))
    words = "Where does Kuti Supiv live? " * 30_000
    yield Attack(
        "a chat of 800 kB of words", CHAT, chat(messages=[{"role": "user", "content": words}])
    )
    yield Attack("tokenize 800 kB", "/tokenize", {"model": "base", "prompt": words}, harmless=True)
    yield Attack(
        "detokenize 200,000 ids",
        "/detokenize",
        {"model": "base", "tokens": [5] * 200_000},
        harmless=True,
    )
    yield Attack(
        "detokenize invalid token ids", "/detokenize", {"model": "base", "tokens": [2**62, -5]}
    )
    yield Attack("10,000 messages", CHAT, chat(messages=[{"role": "user", "content": "a"}] * LIMIT))
    yield Attack(
        "compare with 8 members", CHAT, chat(compare=True, composition="chat"), harmless=True
    )


def constraints() -> Iterator[Attack]:
    """Yield schemas, grammars and choices without end."""
    bombs: dict[str, object] = {
        "minItems 1e9": {"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000_000},
        "maxItems 1e9": {"type": "array", "items": {"type": "integer"}, "maxItems": 1_000_000_000},
        "minLength 1e9": {"type": "string", "minLength": 1_000_000_000},
        "maxLength 1e8": {"type": "string", "maxLength": 100_000_000},
        "minProperties 1e8": {"type": "object", "minProperties": 100_000_000},
        "a pattern of repeats": {"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"},
        "$ref to itself": {"$ref": "#"},
        "$ref to nothing": {"$ref": "#/$defs/none"},
        "$ref to a file": {"$ref": "file:///etc/passwd"},
        "$ref to a URL": {"$ref": "http://127.0.0.1:9/schema"},
        "mutual $ref": {
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            "$ref": "#/$defs/a",
        },
        "an enum of 100,000": {"enum": [f"word{i}" for i in range(100_000)]},
        "5,000 properties": {
            "type": "object",
            "properties": {f"p{i}": {"type": "string"} for i in range(5_000)},
            "required": [f"p{i}" for i in range(5_000)],
        },
        "anyOf of 50,000": {"anyOf": [{"const": i} for i in range(50_000)]},
        "no schema": 7,
    }
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep, "minItems": 2, "maxItems": 9}
    bombs["200 arrays of arrays"] = deep
    wide: dict[str, Any] = {"type": "integer"}
    for _ in range(8):
        wide = {"type": "array", "items": wide, "minItems": 60, "maxItems": 90}
    bombs["60 to 90 to the 8th"] = wide
    for name, schema in bombs.items():
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        mild = name in ("$ref to a file", "$ref to a URL", "60 to 90 to the 8th")
        yield Attack(f"schema: {name}", CHAT, chat(response_format=wanted), harmless=mild)
    minimum = bombs["minItems 1e9"]
    yield Attack(
        "schema minItems 1e9 in structured_outputs",
        COMPLETIONS,
        completion(structured_outputs={"json": minimum}),
    )
    yield Attack(
        "schema minItems 1e9 as text",
        COMPLETIONS,
        completion(structured_outputs={"json": json.dumps(minimum)}),
    )
    yield Attack(
        "schema minItems 1e9 of a composed request",
        CHAT,
        chat(
            model="chat + 0.5*(polite - rude)",
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": minimum},
            },
        ),
    )
    tool = {"type": "function", "function": {"name": "f", "parameters": minimum}}
    named = {"type": "function", "function": {"name": "f"}}
    for choice in ("required", named):
        yield Attack(
            f"schema minItems 1e9 of a tool, {choice if choice == 'required' else 'named'}",
            CHAT,
            chat(tools=[tool], tool_choice=choice),
        )
    yield Attack(
        "schema minItems 1e9 in responses",
        RESPONSES,
        {
            "model": "chat",
            "input": "a",
            "text": {"format": {"type": "json_schema", "name": "a", "schema": minimum}},
        },
    )
    yield Attack(
        "schema minItems 1e9 of a tool in messages",
        MESSAGES,
        chat(
            tools=[{"name": "f", "input_schema": minimum}],
            tool_choice={"type": "tool", "name": "f"},
        ),
    )
    for name, options in {
        "100,000 choices": {"choice": [f"choice number {i}" for i in range(100_000)]},
        "5,000 choices": {"choice": [f"choice number {i}" for i in range(5_000)]},
        "one choice of 500 kB": {"choice": ["x" * 500_000, "y"]},
        "no choice": {"choice": []},
        "a regex of repeats": {"regex": "((a{1,1000}){1,1000}){1,1000}"},
        "a regex of 300 kB": {"regex": "(ab|cd)?" * 40_000},
        "an invalid regex": {"regex": "((("},
        "a grammar of 500 kB": {"grammar": "root ::= " + " | ".join(['"ab"'] * 100_000)},
        "a grammar that is left recursive": {"grammar": "root ::= root root"},
        "an invalid grammar": {"grammar": "nothing"},
        "two constraints": {"regex": "a", "choice": ["a"]},
        "an invalid structural tag": {"structural_tag": "{"},
    }.items():
        yield Attack(f"constraint: {name}", COMPLETIONS, completion(structured_outputs=options))


def sampling() -> Iterator[Attack]:
    """Yield parameters out of range."""
    ids = list(range(100_000))
    parameters: dict[str, dict[str, Any]] = {
        "top_k 2**70": {"top_k": 2**70},
        "top_k -7": {"top_k": -7},
        "seed 2**70": {"seed": 2**70},
        "temperature -1": {"temperature": -1},
        "temperature infinite": {"temperature": float("inf")},
        "temperature no number": {"temperature": float("nan")},
        "max_tokens 2**62": {"max_tokens": 2**62},
        "max_tokens -1": {"max_tokens": -1},
        "min_tokens 2**62": {"min_tokens": 2**62},
        "n 1,000,000": {"n": 1_000_000, "temperature": 1},
        "n 0": {"n": 0},
        "logprobs 1,000,000": {"logprobs": 1_000_000},
        "prompt_logprobs 1,000,000": {"prompt_logprobs": 1_000_000},
        "10,000 stop strings": {"stop": [f"stop{i}" for i in range(LIMIT)]},
        "a stop string of 500 kB": {"stop": ["x" * 500_000]},
        "100,000 stop tokens": {"stop_token_ids": ids, "min_tokens": 2},
        "200 stop tokens with min_tokens": {"stop_token_ids": ids[:200], "min_tokens": 2},
        "stop tokens that are none": {"stop_token_ids": [2**40, -3], "min_tokens": 2},
        "100,000 allowed tokens": {"allowed_token_ids": ids},
        "allowed tokens that are none": {"allowed_token_ids": [2**40]},
        "no allowed token": {"allowed_token_ids": []},
        "100,000 biases": {"logit_bias": {str(i): 1 for i in ids}},
        "biases of tokens that are none": {"logit_bias": {"99999999": 1, "-4": 1}},
        "bias of a word": {"logit_bias": {"chat": 1}},
        "100,000 bad words": {"bad_words": [f"word{i}" for i in ids]},
        "an empty bad word": {"bad_words": [""]},
        "repetition_penalty 0": {"repetition_penalty": 0},
        "repetition_penalty 1e-300": {"repetition_penalty": 1e-300},
        "presence_penalty no number": {"presence_penalty": float("nan")},
        "min_p 7": {"min_p": 7},
        "beam search of 10,000": {"use_beam_search": True, "n": LIMIT},
        "priority 2**80": {"priority": -(2**80)},
        "priority first": {"priority": -5},
        "truncate_prompt_tokens 2**60": {"truncate_prompt_tokens": 2**60},
        "stream_options without stream": {"stream_options": {"include_usage": True}},
        "echo with prompt_logprobs of a composition": {
            "model": "chat + 0.5*polite",
            "echo": True,
            "prompt_logprobs": 3,
        },
        "logits processors": {"logits_processors": ["os.system"]},
        "kv_transfer_params": {"kv_transfer_params": {"do_remote_decode": True}},
        "10,000 prompts": {"prompt": ["a"] * LIMIT},
        "no prompt": {"prompt": []},
        "an empty prompt": {"prompt": [[]]},
        "token ids that are none": {"prompt": [2**40, -1]},
        "prompt embeddings that are none": {"prompt": None, "prompt_embeds": "gASVAAAA"},
        "a prompt of numbers no integer": {"prompt": [1.5, None]},
        "a cache_salt of 500 kB": {"cache_salt": "x" * 500_000},
        "10,000 unknown arguments": {"vllm_xargs": {f"a{i}": 1 for i in range(LIMIT)}},
    }
    for name, fields in parameters.items():
        mild, light = name in _HARMLESS, len(str(fields)) < 1000
        yield Attack(
            f"completions: {name}", COMPLETIONS, completion(**fields), harmless=mild, light=light
        )
        if "prompt" not in fields and "echo" not in fields and "logprobs" not in fields:
            yield Attack(f"chat: {name}", CHAT, chat(**fields), harmless=mild, light=light)
            composed = chat(**{"model": FORMULA, **fields})
            yield Attack(f"composed: {name}", CHAT, composed, harmless=mild, light=light)
    yield Attack("top_logprobs without logprobs", CHAT, chat(top_logprobs=3))
    yield Attack("top_logprobs 1,000,000", CHAT, chat(logprobs=True, top_logprobs=1_000_000))
    yield Attack("a chat template of one's own", CHAT, chat(chat_template="{{ 7*7 }}"))
    endless = "{% for i in range(999999999) %}{% endfor %}"
    yield Attack("a chat template that never ends", CHAT, chat(chat_template=endless))
    keep = {"chat_template": endless}
    yield Attack("a chat template by its arguments", CHAT, chat(chat_template_kwargs=keep))


_HARMLESS = {
    "an empty bad word",
    "logits processors",
    "kv_transfer_params",
    "a cache_salt of 500 kB",
    "repetition_penalty 1e-300",
    "a stop string of 500 kB",
    "max_tokens 2**62",
    "top_k 2**70",
    "truncate_prompt_tokens 2**60",
    "priority first",
    "200 stop tokens with min_tokens",
    "10,000 unknown arguments",
}
"""Names of parameters that change nothing or that a server may accept."""


def formats() -> Iterator[Attack]:
    """Yield bodies that are not JSON, or not a body of the route."""
    for path in (CHAT, COMPLETIONS, RESPONSES, MESSAGES, "/tokenize", "/v1/messages/count_tokens"):
        for name, body in {
            "no body": b"",
            "not JSON": b"{",
            "not UTF-8": b'{"model": "\xff\xfe"}',
            "a list": b"[]",
            "a number": b"7",
            "null": b"null",
            "no fields": b"{}",
            "a lone surrogate": b'{"model":"\\ud800","messages":[],"prompt":"\\ud800"}',
            "a model that is a list": b'{"model":["chat"],"messages":[],"prompt":"a"}',
            "a model of NUL": b'{"model":"\\u0000","messages":[],"prompt":"a","max_tokens":1}',
            "NaN": b'{"model":"base","prompt":"a","messages":[],"max_tokens":NaN}',
            "100,000 keys": json.dumps({f"k{i}": 1 for i in range(100_000)}).encode(),
            "a number of 100,000 digits": b'{"model":"base","prompt":"a","n":'
            + b"9" * 100_000
            + b"}",
        }.items():
            yield Attack(f"{path}: {name}", path, body, light=len(body) < 1000)
        yield Attack(
            f"{path}: a form", path, b"a=b", headers={"Content-Type": "text/html"}, light=True
        )
    picture = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}
    for name, content in {
        "a picture at a URL": [picture],
        "a picture in a file": [{**picture, "image_url": {"url": "file:///etc/passwd"}}],
        "a sound": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}],
        "content that is a number": 7,
        "a part without a type": [{}],
        "10,000 parts": [{"type": "text", "text": "a"}] * LIMIT,
    }.items():
        messages = [{"role": "user", "content": content}]
        yield Attack(f"chat: {name}", CHAT, chat(messages=messages))
        composed = chat(messages=messages, model=FORMULA)
        yield Attack(f"composed: {name}", CHAT, composed)
    odd: dict[str, list[Any]] = {
        "no message": [],
        "messages that are numbers": [1, 2],
        "a role of 500 kB": [{"role": "x" * 500_000, "content": "a"}],
        "tool calls that are numbers": [{"role": "assistant", "tool_calls": [7]}],
    }
    for name, conversation in odd.items():
        yield Attack(f"chat: {name}", CHAT, chat(messages=conversation))
    yield Attack(
        "responses: another's answer",
        RESPONSES,
        {"model": "chat", "input": "a", "previous_response_id": "resp_1"},
    )
    yield Attack(
        "responses: in the background",
        RESPONSES,
        {"model": "chat", "input": "a", "background": True},
    )


def nested(opening: str, inner: str, closing: str, depth: int) -> str:
    """Return text nested `depth` deep, which Python's JSON encoder would refuse to write."""
    return opening * depth + inner + closing * depth
