"""Attacks with and without a key: no other client may notice, and every answer must be 4xx."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

import zoo
from bench.abuse.access import SECRET, access_attacks
from bench.abuse.attack import CHAT, KEYS, Attack, authorization, chat
from bench.abuse.connections import connection_attacks
from bench.abuse.inference import inference_attacks
from bench.abuse.publishing import MAX_ADAPTER_MIB, publishing_attacks
from bench.abuse.watch import Watch, watching
from bench.claim import Result
from bench.machine.server import Running, running
from bench.measure import show, table

MOST_BLOCKED_S = 1.0
ANSWER_S = 45.0
TRIES = 3
"""Runs of an attack that blocked others; a wait caused by other work does not recur."""

LIGHT = 15
"""Largest number of light attacks between two looks at the probes."""

ONLY = "ABUSE_ONLY"
"""Environment variable: run only attacks whose names contain this text."""


def measure() -> Result:
    """Return the number of attacks that did harm or got a bad answer. Takes minutes."""
    attacks = [
        *access_attacks(),
        *inference_attacks(),
        *publishing_attacks(),
        *connection_attacks(),
    ]
    selected = [attack for attack in attacks if os.environ.get(ONLY, "") in attack.name]
    faults = list(_faults(selected))
    if faults:
        show(table(("attack", "fault"), faults))
    harmed = len({name for name, _ in faults})
    show(table(("attacks", "did harm or got a bad answer"), [(len(selected), harmed)]))
    return Result(harmed, holds=bool(selected))


def _faults(attacks: Iterable[Attack]) -> Iterator[tuple[str, str]]:
    """Yield (name of the attack, fault); start a new server after one that died or hangs."""
    left = list(attacks)
    while left:
        with ExitStack() as stack:
            target = stack.enter_context(_target())
            while left and not target.is_lost:
                size = 1
                while size < min(LIGHT, len(left)) and all(
                    attack.light for attack in left[: size + 1]
                ):
                    size += 1
                batch, left = left[:size], left[size:]
                for name, fault in target.attack(batch):
                    print(f"abuse: {name}: {fault}", flush=True)
                    yield name, fault


class _Target:
    """The attacked server; `is_lost` once it has died or answers nobody."""

    def __init__(self, server: Running, watch: Watch) -> None:
        self._server = server
        self._watch = watch
        self._log = 0
        self.is_lost = False
        self._answer = self._asked()

    def attack(self, attacks: Sequence[Attack]) -> Iterator[tuple[str, str]]:
        """Run the attacks; yield (name of the attack, fault)."""
        name = attacks[0].name + (f" to {attacks[-1].name}" if len(attacks) > 1 else "")
        blocked = float("inf")
        faults: dict[tuple[str, str], None] = {}
        for _ in range(TRIES):
            self._watch.reset()
            for attack in attacks:
                faults |= dict.fromkeys((attack.name, fault) for fault in self._hit(attack))
            blocked = min(blocked, max(self._watch.longest()))
            if blocked <= MOST_BLOCKED_S or blocked == float("inf"):
                break
        yield from faults
        if self._server.process.poll() is not None:
            self.is_lost = True
            status = self._server.process.returncode
            yield name, f"the server died, status {status}:\n{self._server.text()[-1500:]}"
        elif blocked == float("inf"):
            self.is_lost = True
            yield name, "the server answers nobody any more"
        else:
            if blocked > MOST_BLOCKED_S:
                yield name, f"others waited {blocked:.1f} s"
            if (answer := self._asked()) != self._answer:
                self.is_lost = True
                yield (
                    name,
                    f"the honest client's answer changed from {self._answer!r} to {answer!r}",
                )
        for line in self._traces():
            yield name, line

    def _hit(self, attack: Attack) -> list[str]:
        try:
            return attack.faults(attack.run(self._url, ANSWER_S))
        except httpx.TransportError as error:
            return [f"no answer: {error!r}"]

    @property
    def _url(self) -> str:
        return str(self._server.client.base_url).rstrip("/")

    def _asked(self) -> str:
        """Return an honest client's answer to a composed question."""
        body = chat(model="chat + 0.8*(polite - rude)", temperature=0, max_tokens=24)
        response = self._server.client.post(CHAT, json=body, headers=authorization("user"))
        if response.status_code != 200:
            return response.text
        answer: str = response.json()["choices"][0]["message"]["content"]
        return answer

    def _traces(self) -> Iterator[str]:
        """Yield a traceback logged since the last call: clients must not fill the log."""
        log = self._server.text()
        new, self._log = log[self._log :], len(log)
        if (start := new.find("Traceback")) >= 0:
            lines = new[start:].splitlines()
            ends = [n for n, line in enumerate(lines[1:], 1) if not line.startswith(" ")]
            last = ends[0] + 1 if ends else len(lines)
            yield "a traceback in the log:\n" + "\n".join(lines[max(0, last - 4) : last])


@contextmanager
def _target() -> Iterator[_Target]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = folder / "keys.toml"
        keys.write_text("".join(map(_key_table, KEYS)), encoding="utf-8")
        options = [
            *("--keys", str(keys), "--adapter-store", str(folder / "store")),
            *("--adapter-root", str(zoo.PROJECT / "zoo" / "adapters")),
            *("--max-adapter-mib", str(MAX_ADAPTER_MIB), "--served-model-name", "zoo"),
        ]
        with running(options=options) as server:
            _make_secret(server.client)
            with watching(int(server.client.base_url.port or 0)) as watch:
                watch.longest()
                yield _Target(server, watch)


def _key_table(name: str) -> str:
    roles, secret = KEYS[name]
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return f'[{name}-key]\nsha256 = "{digest}"\nroles = {json.dumps(roles)}\n'


def _make_secret(client: httpx.Client) -> None:
    """Publish an adapter that only the key `owner` may use."""
    digest = hashlib.sha256(KEYS["owner"][1].encode()).hexdigest()
    for path, body in (("", {"source": "velan"}), ("/policy", {"keys": [digest]})):
        response = client.put(
            f"/v1/adapters/{SECRET}{path}", json=body, headers=authorization("admin")
        )
        response.raise_for_status()
