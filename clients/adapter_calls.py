"""The calls of administrators: publish, replace, roll back and remove adapters.

The client's API key must be one that may publish. `if_match` is the version that the alias must
be at; at another version, the call raises Conflict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from clients.call import Call, Form, RawFile, condition, path_of, reader
from clients.responses import Adapter, AdapterHistory, AdapterList, AdapterPolicy, AdapterVersion

_path = partial(path_of, "adapters")

FILES = ("adapter_config.json", "adapter_model.safetensors")
"""Files of an adapter."""

_MEDIA_TYPES = {
    ".zip": "application/zip",
    ".tar": "application/x-tar",
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
}

Policy = AdapterPolicy | Mapping[str, object]
"""A policy, or its JSON object: compositions, negative, keys; by default all is allowed."""


def list_adapters() -> Call[AdapterList]:
    """GET /adapters."""
    return Call("GET", "/adapters", None, reader(AdapterList))


def get_adapter(alias: str) -> Call[Adapter]:
    """GET /adapters/{alias}."""
    return Call("GET", _path(alias), None, reader(Adapter))


def adapter_history(alias: str) -> Call[tuple[AdapterVersion, ...]]:
    """GET /adapters/{alias}/history: all versions, the oldest first, deletions included."""
    read = reader(AdapterHistory)
    return Call("GET", _path(alias, "history"), None, lambda body: read(body).data)


def put_adapter(
    alias: str,
    *,
    source: str | None = None,
    files: Path | None = None,
    archive: Path | None = None,
    merge: Mapping[str, object] | None = None,
    extract: Mapping[str, object] | None = None,
    patch: Mapping[str, object] | None = None,
    policy: Policy | None = None,
    examples: Sequence[str] | None = None,
    description: str | None = None,
    if_match: int | None = None,
    if_none_match: bool = False,
) -> Call[Adapter]:
    """PUT /adapters/{alias}: publish an adapter, or replace what the alias points at.

    Exactly one of `source` to `patch` says which adapter. The call returns when new requests get
    it; requests in flight keep the version they started with. A merge of large adapters may take
    longer than the default timeout, see `clients.client_settings.Timeouts`.

    Args:
        source: a folder or an archive below the server's --adapter-root, hf://ORG/NAME, or a URL.
        files: a local folder with adapter_config.json and adapter_model.safetensors, to be sent.
        archive: a local .zip, .tar or .tar.gz with these two files; takes no policy or profile.
        merge: adapters of the server to merge, and how; see `adapters.weight_space.merge`.
        extract: a full fine-tune to extract it from; see `adapters.weight_space.extract`.
        patch: an adapter of an earlier base model; see `adapters.weight_space.patch`.
        policy: who may use it, and how; None keeps the policy, which allows all for a new alias.
        examples: prompts that it should answer, for routers; None keeps the present ones.
        description: what it is for, in a few words; None keeps the present one.
        if_none_match: only if the alias does not exist or was deleted.

    Raises:
        ValueError: not exactly one of `source` to `patch` is given, or a file does not exist.
    """
    contents: dict[str, object] = {"source": source, "files": files, "archive": archive}
    contents |= {"merge": merge, "extract": extract, "patch": patch}
    present = {name: value for name, value in contents.items() if value is not None}
    if len(present) != 1:
        raise ValueError(
            f"{', '.join(present) or 'nothing'} is given; give exactly one of {', '.join(contents)}"
        )
    headers = condition(if_match, if_none_match=if_none_match)
    options: dict[str, object] = {} if policy is None else {"policy": _json(policy)}
    options |= _profile(examples, description)
    body: dict[str, object] | None = None
    upload: Form | RawFile | None = None
    if files is not None:
        fields = {name: json.dumps(value) for name, value in options.items()}
        upload = Form(fields, [_existing(files / name) for name in FILES])
    elif archive is not None:
        if options:
            raise ValueError(
                f"an archive takes no {', '.join(options)}; unpack it and send the folder"
            )
        kind = _MEDIA_TYPES.get(archive.suffix.lower(), "application/octet-stream")
        upload = RawFile(_existing(archive), kind)
    else:
        body = {**present, **options}
    return Call("PUT", _path(alias), body, reader(Adapter), headers=headers, upload=upload)


def rollback_adapter(
    alias: str, *, to: int | None = None, if_match: int | None = None
) -> Call[Adapter]:
    """POST /adapters/{alias}/rollback: to version `to`, by default to the content before."""
    body = None if to is None else {"to": to}
    headers = condition(if_match)
    return Call("POST", _path(alias, "rollback"), body, reader(Adapter), headers=headers)


def delete_adapter(alias: str, *, if_match: int | None = None) -> Call[Adapter]:
    """DELETE /adapters/{alias}: stop serving it. The history stays; a rollback undoes it."""
    return Call("DELETE", _path(alias), None, reader(Adapter), headers=condition(if_match))


def set_policy(alias: str, policy: Policy, *, if_match: int | None = None) -> Call[Adapter]:
    """PUT /adapters/{alias}/policy: replace the whole policy; by default all is allowed."""
    headers = condition(if_match)
    return Call("PUT", _path(alias, "policy"), _json(policy), reader(Adapter), headers=headers)


def set_profile(
    alias: str,
    *,
    examples: Sequence[str] | None = None,
    description: str | None = None,
    if_match: int | None = None,
) -> Call[Adapter]:
    """PUT /adapters/{alias}/profile: replace the whole profile."""
    body = _profile(examples, description)
    headers = condition(if_match)
    return Call("PUT", _path(alias, "profile"), body, reader(Adapter), headers=headers)


def _profile(examples: Sequence[str] | None, description: str | None) -> dict[str, object]:
    if isinstance(examples, str):
        raise ValueError("examples is a single text; give a list of texts")
    fields = {"examples": examples and list(examples), "description": description}
    return {name: value for name, value in fields.items() if value is not None}


def _json(policy: Policy) -> Mapping[str, object]:
    return policy.model_dump(mode="json") if isinstance(policy, AdapterPolicy) else policy


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file '{path}'")
    return path
