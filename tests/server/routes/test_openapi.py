"""The OpenAPI document is true: generated requests get what it says, and never a 5xx."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from peft import PeftModel
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from transformers import AutoModelForCausalLM

from composer.release import VERSION
from server.compose.incoming.sagemaker import INVOCATIONS
from server.engine.port import Kind
from server.http.store_position import HEADER
from server.routes.operations import OPERATIONS
from tests.server.administration import KEY, Admin
from tests.support.live_server import LiveServer

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


@pytest.mark.slow
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
        case.headers.pop(HEADER, None)  # a position that never comes is waited for, and a 503
        response = case.call(headers=HEADERS, timeout=60)
        statuses.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    run()
    return statuses


def _aim(body: dict[str, Any], number: int) -> None:
    """Let the request reach a model more often than chance would, and be short."""
    if "model" in body:
        body["model"] = MODELS[number % len(MODELS)]
    asked = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Once", "input": "Once"}
    if number % 2:  # the other fields stay as they were generated
        body |= {name: value for name, value in asked.items() if name in body}
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(body.get(name), int):
            body[name] = min(body[name], 3)


def test_the_document_lists_what_is_served_and_nothing_else(document: dict[str, Any]) -> None:
    described = {(method, path) for path, one in document["paths"].items() for method in one}
    assert described >= OPERATIONS.keys()
    assert not {"/load", "/version", "/v1/embeddings"} & document["paths"].keys()


def test_every_route_that_composes_shows_the_composition(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for kind in (*Kind, INVOCATIONS):
        content = document["paths"][str(kind)]["post"]["requestBody"]["content"]
        for body in content["application/json"]["schema"]["anyOf"]:
            schema = schemas[body["$ref"].rpartition("/")[2]]
            assert schema["properties"]["composition"] == {
                "$ref": "#/components/schemas/Composition"
            }
    assert {form.get("$ref", "text") for form in schemas["Composition"]["anyOf"]} >= {"text"}


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """By the schema of OpenAPI 3.1, and every schema in it by that of JSON Schema 2020-12."""
    assert document["openapi"].startswith("3.1")
    OPENAPI_31_VALIDATOR.validate(document)
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    text = json.dumps(document)
    for reference in re.findall(r'"\$ref": "#/([^"]*)"', text):
        target = document
        for step in reference.split("/"):
            target = target[step]


def test_the_errors_of_a_route_are_its_own(document: dict[str, Any]) -> None:
    """Codes with their statuses, in the format of the route."""
    responses = document["paths"]["/v1/adapters/{alias}"]["put"]["responses"]
    assert responses.keys() >= {"200", "201", "400", "401", "403", "404", "409", "413", "507"}
    conflict = responses["409"]["content"]["application/json"]["schema"]
    codes = conflict["properties"]["error"]["properties"]["code"]["enum"]
    assert codes == ["name_taken", "version_conflict"]
    assert "`version_conflict`" in responses["409"]["description"]
    messages = document["paths"]["/v1/messages"]["post"]["responses"]["400"]
    assert messages["content"]["application/json"]["schema"]["$ref"].endswith("/AnthropicError")
    assert "`formula_syntax`" in messages["description"]


# ---- every example is answered

FOR_ADMINS = ("/v1/adapters", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")


def prepare(admin: Admin, path: str) -> None:
    """Make what the examples of a route build on."""
    if path.startswith("/v1/compositions"):
        for content in ("base + polite", "base + rude"):
            made = admin.server.http.put("/v1/compositions/friendly", json=content)
            assert made.is_success, made.text
    elif path.startswith(FOR_ADMINS):
        for source in ("polite", "rude"):
            assert admin.put("greeting", source).is_success


def test_every_example_is_answered(
    admin: Admin, server: LiveServer, document: dict[str, Any], root: Path, tuned: Path
) -> None:
    """Bodies and parameters. Routers need the server with `arithmetic`, its examples and a gate."""
    assert tuned.is_dir()
    plain = Admin(server)
    for name in ("polite", "rude"):
        assert admin.put(name, name).is_success
    refused, count = [], 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for body in examples(operation):
                url, there = path, plain if "arithmetic" in json.dumps(body) else admin
                for parameter in operation.get("parameters", []):
                    if parameter["in"] == "path":
                        url = url.replace(f"{{{parameter['name']}}}", parameter["example"])
                prepare(there, path)
                answer = there.http.request(method, url, json=body)
                count += 1
                if not answer.is_success:
                    refused.append((method, url, body, answer.text))
    plain.http.close()
    assert not refused, "\n".join(map(str, refused))
    assert count > 60


def examples(operation: dict[str, Any]) -> list[Any]:
    """The bodies to send; one request without a body where the operation takes none."""
    content = operation.get("requestBody", {}).get("content", {})
    bodies = [
        example["value"]
        for media in content.values()
        for example in media.get("examples", {}).values()
    ]
    assert bodies or not content
    return bodies or [None]


@pytest.fixture(scope="module")
def tuned(admin: Admin, root: Path, zoo_base: Path) -> Path:
    """A full fine-tune below the root: the base with `polite` merged into its weights."""
    folder = root / "tuned"
    if not folder.exists():
        model: Any = AutoModelForCausalLM.from_pretrained(zoo_base, dtype=torch.float32)
        merged = PeftModel.from_pretrained(model, str(root / "polite")).merge_and_unload()
        merged.save_pretrained(folder)
        for file in zoo_base.glob("tokenizer*"):
            shutil.copy(file, folder)
    return folder


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION
