"""The OpenAPI document: the routes that are served, vLLM's and ours, and what they answer.

vLLM's own document lacks our routes, the field `composition` and the codes of errors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from composer.errors import ComposerError
from composer.request import composition_examples, composition_schemas
from server.errors import is_anthropic, status_of_type
from server.http.store_position import HEADER as STORE_POSITION
from server.routes.operations import (
    ALWAYS,
    BODY,
    COMPOSING,
    FORM,
    OPERATIONS,
    PARAMETERS,
    Errors,
    Operation,
    form_schema,
)

TITLE = "Composer"
VERSION = "0.2.0"

_JSON = "application/json"
_REF = "#/components/schemas/"
_TEXT = {"type": "string"}
_MESSAGES = [{"role": "user", "content": "Ann lives in Mogtu. Where does Ann live?"}]
_PROMPT = _MESSAGES[0]["content"]

ERROR_SCHEMAS: Mapping[str, Any] = {
    "Error": {
        "description": "An error in OpenAI's format.",
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
            },
            "request_id": _TEXT,
        },
    },
    "AnthropicError": {
        "description": "An error in Anthropic's format.",
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": _TEXT, "message": _TEXT},
            },
            "request_id": _TEXT,
        },
    },
    "NotReady": {
        "description": "Why to send no requests.",
        "type": "object",
        "required": ["status", "problems"],
        "properties": {
            "status": {"const": "not ready"},
            "problems": {"type": "array", "items": _TEXT},
        },
    },
}

COMPOSABLE: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "/v1/chat/completions": (
        ("ChatCompletionRequest",),
        {"messages": _MESSAGES, "max_tokens": 8},
    ),
    "/v1/completions": (("CompletionRequest",), {"prompt": _PROMPT, "max_tokens": 8}),
    "/v1/responses": (("ResponsesRequest",), {"input": _PROMPT, "max_output_tokens": 8}),
    "/v1/messages": (
        ("AnthropicMessagesRequest",),
        {"messages": _MESSAGES, "max_tokens": 8},
    ),
    "/v1/messages/count_tokens": (
        ("AnthropicCountTokensRequest",),
        {"messages": _MESSAGES},
    ),
    "/tokenize": (
        ("TokenizeCompletionRequest", "TokenizeChatRequest"),
        {"prompt": _PROMPT},
    ),
    "/detokenize": (("DetokenizeRequest",), {"tokens": [7, 8, 9]}),
    "/invocations": (
        ("ChatCompletionRequest", "CompletionRequest"),
        {"messages": _MESSAGES, "max_tokens": 8},
    ),
}
"""Route of vLLM with the field `composition` -> schemas of its bodies, an example without it."""


def api_document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """Return the document of an application with these routes."""
    document = get_openapi(title=TITLE, version=VERSION, routes=list(routes))
    schemas = document["components"]["schemas"]
    schemas |= {**composition_schemas(), **ERROR_SCHEMAS, **_body_schemas()}
    for names, _ in COMPOSABLE.values():
        for name in names:
            schemas[name]["properties"]["composition"] = {"$ref": f"{_REF}Composition"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            ours = OPERATIONS.get((method, path))
            if ours is None:
                _describe_foreign(path, operation)
            else:
                _describe(method, ours, operation, schemas)
    document["paths"]["/ready"]["get"]["responses"]["503"] = _response(
        "Send no requests", {"anyOf": [_ref("NotReady"), _ref("Error")]}
    )
    return document


def _body_schemas() -> dict[str, Any]:
    models = {entry.body for entry in OPERATIONS.values() if entry.body is not None} | {FORM}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schema = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=_REF + "{model}"
    )
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def _describe_foreign(path: str, operation: dict[str, Any]) -> None:
    """Complete a route of vLLM, which has errors of its own beside ours."""
    schema = _ref("AnthropicError" if is_anthropic(path) else "Error")
    errors = ALWAYS
    if path in COMPOSABLE:
        errors = (*ALWAYS, *BODY, *COMPOSING)
        names, example = COMPOSABLE[path]
        bodies = [_ref(name) for name in names]
        values = composition_examples() if path == "/v1/chat/completions" else ["base + polite"]
        examples = {
            f"composition {n}": {"value": {"model": "base", **example, "composition": value}}
            for n, value in enumerate(values, 1)
        }
        content = {"schema": {"anyOf": bodies}, "examples": examples}
        operation["requestBody"] = {"required": True, "content": {_JSON: content}}
    kept = {code: answer for code, answer in operation["responses"].items() if code < "4"}
    ours = {
        str(status): _response(_explained(types), schema)
        for status, types in _by_status(errors).items()
    }
    others = _response("An error of vLLM", schema)
    operation["responses"] = {**kept, **ours, "4XX": others, "5XX": others}


def _describe(
    method: str, ours: Operation, operation: dict[str, Any], schemas: dict[str, Any]
) -> None:
    """Complete one of our routes."""
    content: dict[str, Any] = {}
    if ours.body is not None or ours.examples:
        name = "Composition" if ours.body is None else ours.body.__name__
        examples = {key: {"value": value} for key, value in ours.examples.items()}
        content[_JSON] = {"schema": _ref(name), "examples": examples}
    if ours.files:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        fields = schemas[FORM.__name__]["properties"]
        content["multipart/form-data"] = {"schema": form_schema(fields)}
    if content:
        optional = method == "post" and ours.versioned  # a rollback
        operation["requestBody"] = {"content": content, "required": not optional}
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter["example"] = PARAMETERS[parameter["name"]]
    if ours.versioned:
        parameters += [
            _header("If-Match", r'^"\d{1,18}"$', "Change this version only: the ETag of a GET."),
            _header("If-None-Match", r"^\*$", "Store only what is not there yet."),
        ]
    parameters.append(
        _header(STORE_POSITION, r"^>=\d{1,18}$", "Wait until this server knows that change.")
    )
    kept = {code: answer for code, answer in operation["responses"].items() if code < "4"}
    if ours.created:
        kept["201"] = {**kept["200"], "description": "Created"}
    operation["responses"] = kept | {
        str(status): _response(
            _explained(types),
            {
                "allOf": [_ref("Error")],
                "properties": {
                    "error": {"properties": {"code": {"enum": sorted({t.code for t in types})}}}
                },
            },
        )
        for status, types in _by_status((*ALWAYS, *ours.errors)).items()
    }


def _by_status(errors: Errors) -> dict[int, list[type[ComposerError]]]:
    by_status: dict[int, list[type[ComposerError]]] = defaultdict(list)
    for error in dict.fromkeys(errors):
        by_status[status_of_type(error)].append(error)
    return dict(sorted(by_status.items()))


def _explained(errors: Iterable[type[ComposerError]]) -> str:
    """Return the codes and when they occur, as Markdown."""
    lines = ((error.__doc__ or "").partition("\n\n")[0].replace("\n    ", " ") for error in errors)
    return "\n".join(f"* `{error.code}`: {line}" for error, line in zip(errors, lines, strict=True))


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"{_REF}{name}"}


def _response(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": schema}}}


def _header(name: str, pattern: str, description: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "description": description, "schema": schema}
