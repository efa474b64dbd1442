"""One attack: what is sent, who sends it, and what a good answer to it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

import zoo

KEYS = {
    "user": (["use"], "the key of a user of everything"),
    "composer": (["use", "compose"], "the key of one who stores compositions"),
    "publisher": (["use", "publish"], "the key of one who publishes adapters"),
    "owner": (["use"], "the key that the policy of an adapter names"),
    "admin": (["admin"], "the key of the administrator of the server"),
}
"""Name of a key -> its roles and its secret."""

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"

Sender = Callable[[str], list[httpx.Response]]
"""Attacks the server at this URL; returns the answers that came."""

_ENGINE_NAME = re.compile(r"[\w.-]{1,64}@[0-9a-f]{12}")
_OWN_PATHS = (str(zoo.PROJECT), "site-packages", "Traceback")


@dataclass(frozen=True, slots=True)
class Attack:
    """A request, or with `send` anything else.

    `key` is a name of `KEYS`, or None for no key. `harmless` marks what may also be answered with
    200, because an answer does no harm; it must then not block anybody either. `light` ones are
    small and take no time that could block anybody: the probes look after several at once.
    """

    name: str
    path: str = CHAT
    body: object = None
    method: str = "POST"
    key: str | None = "user"
    headers: Mapping[str, str | bytes] = field(default_factory=dict)
    harmless: bool = False
    light: bool = False
    send: Sender | None = None

    def run(self, url: str, timeout_s: float) -> list[httpx.Response]:
        """Send it. Raises `httpx.TransportError` where no answer comes."""
        if self.send is not None:
            return self.send(url)
        sent = {"Content-Type": "application/json", **authorization(self.key), **self.headers}
        headers = [
            (name.encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in sent.items()
        ]
        content = self.body if isinstance(self.body, bytes) else dumped(self.body)
        with httpx.Client(timeout=timeout_s, trust_env=False) as http:
            return [http.request(self.method, url + self.path, content=content, headers=headers)]

    def faults(self, answers: list[httpx.Response]) -> list[str]:
        """What is wrong with the answers."""
        return [fault for answer in answers for fault in self._faults(answer)]

    def _faults(self, answer: httpx.Response) -> list[str]:
        found = []
        text = answer.text
        if not (400 <= answer.status_code < 500 or (self.harmless and answer.is_success)):
            found.append(f"status {answer.status_code}: {text[:200]}")
        elif answer.is_error and not _is_in_format(answer, self.path):
            found.append(f"{answer.status_code} not in the route's format: {text[:200]}")
        if leak := _ENGINE_NAME.search(text):
            found.append(f"the answer names {leak[0]}")
        found += [f"the answer tells '{path}'" for path in _OWN_PATHS if path in text]
        return found


def authorization(key: str | None) -> dict[str, str]:
    """The header of a key of `KEYS`."""
    return {"Authorization": f"Bearer {KEYS[key][1]}"} if key else {}


def dumped(body: object) -> bytes:
    """JSON; as Python writes it, NaN and lone surrogates as well."""
    return b"" if body is None else json.dumps(body).encode()


def chat(**fields: Any) -> dict[str, Any]:
    """The body of a short chat."""
    return {
        "model": "chat",
        "messages": [{"role": "user", "content": "Where does Kuti Supiv live?"}],
        "max_tokens": 3,
        **fields,
    }


def completion(**fields: Any) -> dict[str, Any]:
    """The body of a short completion."""
    return {"model": "base", "prompt": "Once upon a", "max_tokens": 3, **fields}


def _is_in_format(answer: httpx.Response, path: str) -> bool:
    try:
        body = answer.json()
        error = body["error"]
        if path.startswith(MESSAGES):
            return bool(body["type"] == "error" and {"type", "message"} <= error.keys())
        return bool(isinstance(error["message"], str) and "type" in error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
