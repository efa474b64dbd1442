"""The OpenAPI document is true: generated requests get what it says, and never a 5xx."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.api_document import BODIES, COMPOSING, VERSION
from tests.server.administration import KEY, Admin

HEADERS = {"Authorization": f"Bearer {KEY}"}
CHECKS = [
    not_a_server_error,
    response_schema_conformance,
    content_type_conformance,
    status_code_conformance,
]
MODELS = ("base", "chat", "base + 0.5*chat", "nobody")
EXAMPLES = 10
"""Of each operation, the same in every run."""

SEEDED = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def document(admin: Admin) -> dict[str, Any]:
    document: dict[str, Any] = admin.http.get("/openapi.json").json()
    return document


def test_every_route_keeps_to_the_document(admin: Admin) -> None:
    schema = schemathesis.openapi.from_url(admin.server.url + "/openapi.json", headers=HEADERS)
    answered = {}
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        answered[operation.label] = _statuses(operation)
    generating = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
    reached = [status for path in generating for status in answered[f"POST {path}"]]
    assert reached.count(200) >= len(generating), answered
    assert admin.says("chat") != ""


def _statuses(operation: APIOperation[Any, Any, Any, Any]) -> list[int]:
    """Call an operation with generated requests, check the answers and return their statuses."""
    statuses: list[int] = []

    @SEEDED
    @given(case=operation.as_strategy())
    def run(case: schemathesis.Case[Any]) -> None:
        if isinstance(case.body, dict):
            _aim(case.body, len(statuses))
        response = case.call(headers=HEADERS, timeout=60)
        statuses.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    run()
    return statuses


def _aim(body: dict[str, Any], number: int) -> None:
    """Let the request reach a model more often than chance would, and be short."""
    if "model" in body:
        body["model"] = MODELS[number % len(MODELS)]
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(body.get(name), int):
            body[name] = min(body[name], 3)


def test_the_document_lists_what_is_served_and_nothing_else(document: dict[str, Any]) -> None:
    described = {(method, path) for path, one in document["paths"].items() for method in one}
    assert described >= BODIES.keys()
    assert not {"/load", "/version", "/v1/embeddings"} & document["paths"].keys()
    for name in COMPOSING:
        assert "composition" in document["components"]["schemas"][name]["properties"]


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION
