"""The calls of administrators: publish, replace, roll back and remove adapters.

They need the administrators' key as the API key of the client. `if_match` is the number of the
version that the alias must be at; where it is at another one, the call raises Conflict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from clients.call import Call, Form, RawFile, reader
from clients.responses import Adapter, AdapterHistory, AdapterList, AdapterPolicy, AdapterVersion

FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What an adapter consists of."""

_MEDIA_TYPES = {
    ".zip": "application/zip",
    ".tar": "application/x-tar",
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
}

Policy = AdapterPolicy | Mapping[str, object]
"""Or the JSON object: compositions, negative, keys. What is left out is allowed."""


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
    """PUT /adapters/{alias}: publish an adapter, or replace what the alias stands for.

    Exactly one of `source` to `patch` says what it is. The call returns when new requests get it;
    requests in flight keep what they have. A merge of large adapters may take longer than the
    client waits by default, see clients.client_settings.Timeouts.

    Args:
        source: a folder or an archive below the server's root, a Hugging Face id, a URL.
        files: a folder here, whose adapter_config.json and adapter_model.safetensors are sent.
        archive: a .zip, .tar or .tar.gz here with these two files; takes no policy and no texts.
        merge: adapters of the server and how to merge them; see `adapters.weight_space.merge`.
        extract: a full fine-tune to take an adapter from; see `adapters.weight_space.extract`.
        patch: an adapter of an earlier version of the base; see `adapters.weight_space.patch`.
        policy: who may use it, and how; None leaves it as it is, or open if the alias is new.
        examples: prompts that it is to answer, for routers; None leaves those that it has.
        description: what it is for, in a few words; None leaves it as it is.
        if_none_match: only if the alias stands for nothing now.

    Raises:
        ValueError: not exactly one of them is given, or a file is not there.
    """
    what: dict[str, object] = {"source": source, "files": files, "archive": archive}
    what |= {"merge": merge, "extract": extract, "patch": patch}
    given = {name: value for name, value in what.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"{', '.join(given) or 'nothing'} is given; give exactly one of {', '.join(what)}"
        )
    if if_none_match and if_match is not None:
        raise ValueError("if_match and if_none_match contradict each other; give one")
    headers = {"If-None-Match": "*"} if if_none_match else _condition(if_match)
    rules: dict[str, object] = {} if policy is None else {"policy": _json(policy)}
    rules |= _profile(examples, description)
    body: dict[str, object] | None = None
    upload: Form | RawFile | None = None
    if files is not None:
        fields = {name: json.dumps(value) for name, value in rules.items()}
        upload = Form(fields, [_existing(files / name) for name in FILES])
    elif archive is not None:
        if rules:
            raise ValueError(
                f"an archive takes no {', '.join(rules)}; unpack it and send the folder"
            )
        kind = _MEDIA_TYPES.get(archive.suffix.lower(), "application/octet-stream")
        upload = RawFile(_existing(archive), kind)
    else:
        body = {**given, **rules}
    return Call("PUT", _path(alias), body, reader(Adapter), headers=headers, upload=upload)


def rollback_adapter(
    alias: str, *, to: int | None = None, if_match: int | None = None
) -> Call[Adapter]:
    """POST /adapters/{alias}/rollback: to version `to`, or the content before the present one."""
    body = None if to is None else {"to": to}
    headers = _condition(if_match)
    return Call("POST", _path(alias, "rollback"), body, reader(Adapter), headers=headers)


def delete_adapter(alias: str, *, if_match: int | None = None) -> Call[Adapter]:
    """DELETE /adapters/{alias}: stop serving it; the history stays, and a rollback undoes it."""
    return Call("DELETE", _path(alias), None, reader(Adapter), headers=_condition(if_match))


def set_policy(alias: str, policy: Policy, *, if_match: int | None = None) -> Call[Adapter]:
    """PUT /adapters/{alias}/policy: replace the whole policy. What is left out is allowed."""
    headers = _condition(if_match)
    return Call("PUT", _path(alias, "policy"), _json(policy), reader(Adapter), headers=headers)


def set_profile(
    alias: str,
    *,
    examples: Sequence[str] | None = None,
    description: str | None = None,
    if_match: int | None = None,
) -> Call[Adapter]:
    """PUT /adapters/{alias}/profile: replace the whole profile. What is left out is not said."""
    body = _profile(examples, description)
    headers = _condition(if_match)
    return Call("PUT", _path(alias, "profile"), body, reader(Adapter), headers=headers)


def _profile(examples: Sequence[str] | None, description: str | None) -> dict[str, object]:
    if isinstance(examples, str):
        raise ValueError("examples is one text; give a list of texts")
    fields = {"examples": examples and list(examples), "description": description}
    return {name: value for name, value in fields.items() if value is not None}


def _path(alias: str, *more: str) -> str:
    return "/".join(("/adapters", quote(alias, safe=""), *more))


def _condition(number: int | None) -> dict[str, str]:
    return {} if number is None else {"If-Match": f'"{number}"'}


def _json(policy: Policy) -> Mapping[str, object]:
    return policy.model_dump(mode="json") if isinstance(policy, AdapterPolicy) else policy


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file '{path}'")
    return path
