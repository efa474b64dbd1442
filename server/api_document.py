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

from adapters import CONFIG, WEIGHTS
from composer.errors import ComposerError
from composer.release import VERSION
from composer.request import composition_examples, composition_schemas
from server.errors import is_anthropic, status_of_type
from server.http.store_position import HEADER as STORE_POSITION
from server.publishing.bodies import UploadFields
from server.routes.operations import (
    ALWAYS,
    BODY,
    COMPOSING,
    OPERATIONS,
    PARAMETERS,
    Errors,
    Operation,
)

TITLE = "Composer"

_JSON = "application/json"
_REF = "#/components/schemas/"
_TEXT = {"type": "string"}
_NULLABLE = {"type": ["string", "null"]}
_BINARY = {"type": "string", "format": "binary"}
_PROMPT = "Ann lives in Mogtu. Where does Ann live?"


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


_CODE = {"type": ["string", "integer", "null"]}
_OPENAI = _object("message type code", message=_TEXT, type=_TEXT, param=_NULLABLE, code=_CODE)
_ANTHROPIC = _object("type message", type=_TEXT, message=_TEXT)
_PROBLEMS = {"type": "array", "items": _TEXT}

ERROR_SCHEMAS: Mapping[str, Any] = {
    "Error": _object("error", error=_OPENAI, request_id=_TEXT),
    "AnthropicError": _object(
        "type error", type={"const": "error"}, error=_ANTHROPIC, request_id=_TEXT
    ),
    "NotReady": _object("status problems", status={"const": "not ready"}, problems=_PROBLEMS),
}

_CHAT = {"messages": [{"role": "user", "content": _PROMPT}]}
_BRIEF = {"max_tokens": 8}
COMPOSABLE: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "/v1/chat/completions": (("ChatCompletionRequest",), _CHAT | _BRIEF),
    "/v1/completions": (("CompletionRequest",), {"prompt": _PROMPT} | _BRIEF),
    "/v1/responses": (("ResponsesRequest",), {"input": _PROMPT, "max_output_tokens": 8}),
    "/v1/messages": (("AnthropicMessagesRequest",), _CHAT | _BRIEF),
    "/v1/messages/count_tokens": (("AnthropicCountTokensRequest",), _CHAT),
    "/tokenize": (("TokenizeCompletionRequest", "TokenizeChatRequest"), {"prompt": _PROMPT}),
    "/detokenize": (("DetokenizeRequest",), {"tokens": [7, 8, 9]}),
    "/invocations": (("ChatCompletionRequest", "CompletionRequest"), _CHAT | _BRIEF),
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
    models = {entry.body for entry in OPERATIONS.values() if entry.body is not None} | {
        UploadFields
    }
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
        fields = schemas[UploadFields.__name__]["properties"]
        form = {"archive": _BINARY, CONFIG: _BINARY, WEIGHTS: _BINARY, **fields}
        about = f"Either `archive`, or {CONFIG} and {WEIGHTS}; the other fields hold JSON."
        content["multipart/form-data"] = {"schema": _object("", **form) | {"description": about}}
        content["application/octet-stream"] = {"schema": _BINARY}
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
            _error_of(sorted({kind.code for kind in types})),
        )
        for status, types in _by_status((*ALWAYS, *ours.errors)).items()
    }


def _error_of(codes: list[str]) -> dict[str, Any]:
    error = {"properties": {"code": {"enum": codes}}}
    return {"allOf": [_ref("Error")], "properties": {"error": error}}


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
