"""The OpenAPI document: the routes that are served, vLLM's and ours, and what they answer.

vLLM's own document knows neither our routes for adapters, nor our fields, nor that every error has
a code in words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from server.errors import is_anthropic

TITLE = "Composer"
VERSION = "0.2.0"

_JSON = "application/json"
_TEXT = {"type": "string"}
_OBJECT = {"type": "object"}

ERROR = {
    "description": "What is wrong, in OpenAI's format.",
    "content": {
        _JSON: {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "code"],
                        "properties": {
                            "message": _TEXT,
                            "type": _TEXT,
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "integer", "null"]},
                        },
                    }
                },
            }
        }
    },
}
ANTHROPIC_ERROR = {
    "description": "What is wrong, in Anthropic's format.",
    "content": {
        _JSON: {
            "schema": {
                "type": "object",
                "required": ["type", "error"],
                "properties": {
                    "type": {"const": "error"},
                    "error": {
                        "type": "object",
                        "required": ["type", "message"],
                        "properties": {"type": _TEXT, "message": _TEXT},
                    },
                },
            }
        }
    },
}

COMPOSITION = {
    "description": "A formula, or a recipe or members as an object.",
    "anyOf": [_TEXT, _OBJECT],
}
_NUMBERED = {"type": "object", "properties": {"to": {"type": "integer"}}}
_FILES = {
    _JSON: {"schema": _OBJECT},
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    "multipart/form-data": {"schema": _OBJECT},
}

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("put", "/v1/compositions/{name}"): {_JSON: {"schema": COMPOSITION}},
    ("post", "/v1/compositions/{name}/rollback"): {_JSON: {"schema": _NUMBERED}},
    ("put", "/v1/adapters/{alias}"): _FILES,
    ("put", "/v1/adapters/{alias}/policy"): {_JSON: {"schema": _OBJECT}},
    ("put", "/v1/adapters/{alias}/profile"): {_JSON: {"schema": _OBJECT}},
    ("post", "/v1/adapters/{alias}/rollback"): {_JSON: {"schema": _NUMBERED}},
    ("post", "/v1/load_lora_adapter"): {_JSON: {"schema": _OBJECT}},
    ("post", "/v1/unload_lora_adapter"): {_JSON: {"schema": _OBJECT}},
}
"""What our routes read by themselves, by method and path: content type -> schema."""

COMPOSING = (
    *("ChatCompletionRequest", "CompletionRequest", "ResponsesRequest"),
    "AnthropicMessagesRequest",
)
"""Schemas of requests that may have the field `composition`."""


def api_document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The document of an application with these routes."""
    document = get_openapi(title=TITLE, version=VERSION, routes=list(routes))
    document["components"]["responses"] = {"Error": ERROR, "AnthropicError": ANTHROPIC_ERROR}
    for path, methods in document["paths"].items():
        kind = "AnthropicError" if is_anthropic(path) else "Error"
        error = {"$ref": f"#/components/responses/{kind}"}
        for method, operation in methods.items():
            told = operation["responses"].items()
            kept = {code: one for code, one in told if code < "4" or "content" not in one}
            operation["responses"] = {**kept, "4XX": error, "5XX": error}
            if (content := BODIES.get((method, path))) is not None:
                operation["requestBody"] = {"content": content}
    schemas = document["components"]["schemas"]
    for name in COMPOSING:
        schemas[name]["properties"]["composition"] = COMPOSITION
    return document
