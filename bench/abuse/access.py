"""Attacks on keys, roles, policies, and routes that are not served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.abuse.attack import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    Attack,
    chat,
    completion,
)

HIDDEN = (
    *(
        "/invocations",
        "/generative_scoring",
        "/load",
        "/scale_elastic_ep",
        "/is_scaling_elastic_ep",
    ),
    *("/ping", "/version", "/server_info", "/reset_prefix_cache", "/sleep", "/wake_up", "/pause"),
    *("/collective_rpc", "/start_profile", "/stop_profile", "/docs", "/redoc", "/abort_requests"),
    *(
        "/v1/embeddings",
        "/v1/score",
        "/rerank",
        "/pooling",
        "/classify",
        "/v1/audio/transcriptions",
    ),
    *("/inference/v1/generate", "/v1/realtime", "/tokenizer_info", "/cohere/v2/embed"),
    *("/v1/responses/resp_1", "/v1/responses/resp_1/cancel", "/v1/chat/completions/render"),
)
"""Routes of vLLM that are not served."""

SECRET = "secret"
"""An adapter whose policy allows only the owner's key."""


def access_attacks() -> Iterator[Attack]:
    """Yield all attacks on access."""
    for attack in (*_keys(), *_policies()):
        yield replace(attack, light=True)


def _keys() -> Iterator[Attack]:
    """Yield requests without a key, with a wrong one, without the role, and to hidden routes."""
    for path, body in {
        CHAT: chat(),
        COMPLETIONS: completion(),
        RESPONSES: {"model": "base", "input": "a"},
        MESSAGES: chat(),
        "/v1/messages/count_tokens": chat(),
        "/tokenize": {"model": "base", "prompt": "a"},
        "/detokenize": {"model": "base", "tokens": [5]},
        "/v1/adapters/none": {"source": "polite"},
        "/v1/load_lora_adapter": {"lora_name": "a", "lora_path": "/etc"},
    }.items():
        method = "PUT" if path.startswith("/v1/adapters") else "POST"
        yield Attack(f"{path} without a key", path, body, method, key=None)
        wrong = {"Authorization": "Bearer wrong"}
        yield Attack(f"{path} with a wrong key", path, body, method, key=None, headers=wrong)
    for path in ("/v1/models", "/v1/models/base", "/metrics", "/openapi.json", "/v1/compositions"):
        yield Attack(f"{path} without a key", path, None, "GET", key=None)
    odd: dict[str, dict[str, str | bytes]] = {
        "an empty key": {"Authorization": "Bearer"},
        "a key of 60 kB": {"Authorization": "Bearer " + "x" * 60_000},
        "another scheme": {"Authorization": "Basic dXNlcjp1c2Vy"},
        "a key that is not ASCII": {"Authorization": b"Bearer \xff\xfe"},
        "two keys": {"Authorization": "Bearer wrong", "x-api-key": "also wrong"},
    }
    for name, headers in odd.items():
        yield Attack(name, CHAT, chat(), key=None, headers=headers)
    for path in HIDDEN:
        for key in (None, "user"):
            who = "without a key" if key is None else "with one"
            yield Attack(f"GET {path} {who}", path, None, "GET", key=key)
            yield Attack(f"POST {path} {who}", path, completion(), key=key)
    for path in ("/v1//chat/completions", "/v1/chat/completions/", "/V1/chat/completions"):
        yield Attack(f"{path} without a key", path, chat(), key=None)
    for method in ("TRACE", "OPTIONS", "DELETE", "PATCH", "GET"):
        yield Attack(f"{method} {CHAT}", CHAT, None, method)
    without_role: tuple[tuple[str, object, str], ...] = (
        ("/v1/adapters/polite", {"source": "rude"}, "PUT"),
        ("/v1/adapters/polite", None, "DELETE"),
        ("/v1/adapters/polite/policy", {"keys": []}, "PUT"),
        ("/v1/adapters", None, "GET"),
        ("/v1/compositions/mine", {"recipe": "proxy_tuning"}, "PUT"),
        ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/etc"}, "POST"),
    )
    for path, fields, method in without_role:
        yield Attack(f"{method} {path} without the role", path, fields, method)


def _policies() -> Iterator[Attack]:
    """Yield requests for `SECRET` with another key."""
    header = {"X-Amzn-SageMaker-Adapter-Identifier": SECRET}
    for path in (COMPLETIONS, CHAT, "/invocations"):
        body = completion() if path != CHAT else chat()
        yield Attack(f"{path}: SageMaker's header", path, body, headers=header, harmless=True)
    for model in (SECRET, f"base + 0.5*({SECRET} - base)", f"'{SECRET}'", f" {SECRET} "):
        yield Attack(
            f"completions: another's adapter as {model!r}", COMPLETIONS, completion(model=model)
        )
        yield Attack(f"chat: another's adapter as {model!r}", CHAT, chat(model=model))
        yield Attack(
            f"responses: another's adapter as {model!r}", RESPONSES, {"model": model, "input": "a"}
        )
        yield Attack(f"messages: another's adapter as {model!r}", MESSAGES, chat(model=model))
    for name, composition in {
        "a member": {"members": [{"model": "base"}, {"model": SECRET, "weight": 0.5}]},
        "an expert": {"recipe": "mixture", "experts": ["chat", SECRET]},
        "a switch": {
            "recipe": "mixture",
            "experts": ["chat", SECRET],
            "router": {"kind": "sequence"},
        },
        "a filter": {
            "members": [{"model": "chat"}],
            "filters": [{"kind": "plausibility", "model": SECRET, "value": 0.1}],
        },
    }.items():
        yield Attack(f"another's adapter as {name}", CHAT, chat(composition=composition))
    yield Attack(f"GET /v1/models/{SECRET} of another", f"/v1/models/{SECRET}", None, "GET")
    yield Attack("tokenize by another's adapter", "/tokenize", {"model": SECRET, "prompt": "a"})
