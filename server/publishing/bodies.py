"""The bodies of our routes as pydantic models, and the one function that reads them."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator
from pydantic.json_schema import SkipJsonSchema

from adapters import MergeError, Policy, Profile, ProfileError
from adapters.store.profile import Description, Examples
from adapters.weight_space.merge import MERGE_SCHEMA, MergeSpec
from composer.errors import ComposerError
from composer.fields import Fields
from composer.validation import shown, validate
from server.errors import InvalidJsonError, RequestError
from server.publishing.weight_jobs import ExtractBody, PatchBody

_Body = TypeVar("_Body", bound=BaseModel)

_ERRORS: dict[str, type[ComposerError]] = {
    "examples": ProfileError,
    "description": ProfileError,
    "extract": MergeError,
    "patch": MergeError,
}
"""Field of a body -> the error for a wrong value in it; `RequestError` for all others."""

_SOURCES = ("source", "merge", "extract", "patch")


def _refuse_null(value: object) -> object:
    if value is None:
        raise ValueError("null is not a value of this field; leave the field out")
    return value


_REFUSE_NULL = BeforeValidator(_refuse_null)


def _drop_null_defaults(schema: dict[str, Any]) -> None:
    for name in ("policy", *_SOURCES):
        schema["properties"].get(name, {}).pop("default", None)


class UploadFields(Profile):
    """What may accompany the files of an adapter."""

    model_config = ConfigDict(json_schema_extra=_drop_null_defaults)

    policy: Annotated[
        Policy | None, PlainValidator(Policy.from_json, json_schema_input_type=Policy)
    ] = None
    """Who may use the adapter; asks for the role `admin`. An alias keeps its policy without it."""

    @property
    def profile(self) -> Profile:
        """Return the examples and the description alone."""
        return Profile(examples=self.examples, description=self.description)


class Publication(UploadFields):
    """An adapter to publish, from a source or computed: give exactly one of 'source', 'merge',
    'extract' and 'patch'."""

    source: Annotated[str | SkipJsonSchema[None], _REFUSE_NULL] = None
    """A folder or archive below --adapter-root, or a URL that --adapter-source allows."""

    merge: Annotated[
        MergeSpec | None, PlainValidator(MergeSpec.from_json, json_schema_input_type=MERGE_SCHEMA)
    ] = None
    """Merge adapters that are served."""

    extract: Annotated[ExtractBody | SkipJsonSchema[None], _REFUSE_NULL] = None
    """Extract an adapter from a full fine-tune."""

    patch: Annotated[PatchBody | SkipJsonSchema[None], _REFUSE_NULL] = None
    """Carry an adapter of an earlier version of the base model over to this one."""

    @model_validator(mode="after")
    def _check_sources(self) -> Publication:
        sources = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError(
                f"it has {' and '.join(sources) or 'none'} of 'source', 'merge', 'extract' and "
                "'patch'; give exactly one, or send the files as an archive or a form"
            )
        return self


class Rollback(Fields):
    """The version whose content comes back."""

    to: Annotated[int, Field(strict=True)] | None = None
    """Number of the version; by default the last one with other content."""


class LoadAdapter(BaseModel):
    """The body of vLLM's route; further fields of vLLM are accepted and change nothing."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    lora_name: Annotated[str, Field(min_length=1)]
    """The alias."""

    lora_path: Annotated[str, Field(min_length=1)]
    """The source, as that of a publication."""

    load_inplace: bool | None = False
    """Whether to replace an adapter of this name."""

    examples: Examples = None
    """Prompts that the adapter is to answer."""

    description: Description = None
    """What the adapter is for."""

    @property
    def profile(self) -> Profile:
        """Return the examples and the description alone."""
        return read_body(Profile, {"examples": self.examples, "description": self.description})


class UnloadAdapter(BaseModel):
    """The body of vLLM's route; further fields of vLLM are accepted and change nothing."""

    lora_name: Annotated[str, Field(min_length=1)]


def read_body(model: type[_Body], value: object) -> _Body:
    """Read a JSON value.

    Raises:
        ComposerError: the class follows from the field; the message names it, its value and what
            it should be.
    """
    try:
        return validate(model, value, "", RequestError)
    except RequestError as error:
        field = (error.param or "").partition(".")[0].partition("[")[0]
        raise _ERRORS.get(field, RequestError)(error.message, param=error.param) from error


async def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body. Raises `InvalidJsonError`."""
    body = parse_json(await request.body(), "the body", "Send one JSON object.")
    if not isinstance(body, dict):
        raise InvalidJsonError(f"the body is {shown(body)}, not a JSON object. Send one.")
    return body


def parse_json(text: str | bytes, what: str, advice: str) -> Any:
    """Return the JSON value of `what`. Raises `InvalidJsonError`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidJsonError(f"{what} is not JSON: {error}. {advice}") from error


async def rollback_version(request: Request) -> int | None:
    """Return the version that a rollback names; None for the one before.

    Raises:
        InvalidJsonError: the body is neither empty nor like `{"to": 3}`.
    """
    if not await request.body():
        return None
    return validate(Rollback, await json_object(request), "", InvalidJsonError).to
