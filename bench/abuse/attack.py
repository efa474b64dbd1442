"""An attack: what is sent, with which key, and what counts as a good answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

import zoo

KEYS = {
    "user": (["use"], "the key of a user of all models"),
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
"""Attack the server at a URL; return the responses received."""

_ENGINE_NAME = re.compile(r"[\w.-]{1,64}@[0-9a-f]{12}")
_PRIVATE_TEXTS = (str(zoo.PROJECT), "site-packages", "Traceback")


@dataclass(frozen=True, slots=True)
class Attack:
    """A request, or whatever `send` does.

    `key` is a name in `KEYS`, or None for no key. A `harmless` attack may also be answered with
    200, but must not block others either. A `light` attack is too small to block others, so that
    several run between two looks at the probes.
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
        """Send the attack.

        Raises:
            httpx.TransportError: no answer came.
        """
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
        """Return what is wrong with the answers."""
        return [fault for answer in answers for fault in self._faults(answer)]

    def _faults(self, answer: httpx.Response) -> list[str]:
        faults = []
        text = answer.text
        if not (400 <= answer.status_code < 500 or (self.harmless and answer.is_success)):
            faults.append(f"status {answer.status_code}: {text[:200]}")
        elif answer.is_error and not _is_in_format(answer, self.path):
            faults.append(f"{answer.status_code} not in the route's format: {text[:200]}")
        if leak := _ENGINE_NAME.search(text):
            faults.append(f"the answer names {leak[0]}")
        faults += [f"the answer contains '{path}'" for path in _PRIVATE_TEXTS if path in text]
        return faults


def authorization(key: str | None) -> dict[str, str]:
    """Return the header for a name in `KEYS`."""
    return {"Authorization": f"Bearer {KEYS[key][1]}"} if key else {}


def dumped(body: object) -> bytes:
    """Return the body as JSON, which may contain NaN and lone surrogates."""
    return b"" if body is None else json.dumps(body).encode()


def chat(**fields: Any) -> dict[str, Any]:
    """Return the body of a short chat."""
    return {
        "model": "chat",
        "messages": [{"role": "user", "content": "Where does Kuti Supiv live?"}],
        "max_tokens": 3,
        **fields,
    }


def completion(**fields: Any) -> dict[str, Any]:
    """Return the body of a short completion."""
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
