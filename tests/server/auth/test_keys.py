"""Files of keys: what they may say, and that a change holds at once."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from starlette.types import Scope

from server.auth import keys
from server.auth.keys import Key, KeyFile, KeyRing, Role, read_keys
from server.auth.quotas import Quotas
from server.errors import RateLimitError, RequestBoundError, UnauthorizedError

SECRET = "alice's secret"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def request(**headers: str) -> Scope:
    pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return {"type": "http", "headers": pairs}


def write(file: Path, text: str) -> Path:
    file.write_text(text)
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + len(text)))
    return file


def test_what_a_file_says(tmp_path: Path) -> None:
    text = f"""
        [alice]
        sha256 = "{sha256(SECRET).upper()}"
        [bob]
        sha256 = ["sha256:{sha256("old")}", "{sha256("new")}"]
        roles = ["use", "compose"]
        models = ["base"]
        requests_per_minute = 5
        rows = 8
    """
    found = read_keys(write(tmp_path / "keys.toml", text))
    bob = Key("bob", frozenset({Role.USE, Role.COMPOSE}), frozenset({"base"}), 5, 8)
    assert found == {
        sha256(SECRET): Key("alice", frozenset({Role.USE})),
        sha256("old"): bob,
        sha256("new"): bob,
    }
    assert bob.may(Role.COMPOSE)
    assert not bob.may(Role.ADMIN)
    assert Key("root", frozenset({Role.ADMIN})).may(Role.COMPOSE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "keys.toml"),
        ("[alice]", "alice.sha256 is missing"),
        ('[alice]\nsha256 = "secret"', "64 hex digits"),
        ('["a b"]\nsha256 = "x"', "cannot name a key"),
        ('[admin]\nsha256 = "x"', "cannot name a key"),
        ("alice = 3", "alice"),
        (f'[a]\nsha256 = "{"0" * 64}"\nroles = ["root"]', "roles"),
        (f'[a]\nsha256 = "{"0" * 64}"\nrole = ["use"]', "did you mean 'roles'"),
        (f'[a]\nsha256 = "{"0" * 64}"\nrows = 0', "rows"),
        (f'[a]\nsha256 = "{"0" * 64}"\nroles = ["publish"]\nmodels = ["x"]', "all adapters"),
        (f'[a]\nsha256 = "{"0" * 64}"\n[b]\nsha256 = "{"0" * 64}"', "same sha256"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match="--keys") as caught:
        read_keys(write(tmp_path / "keys.toml", text))
    assert said in str(caught.value)
    assert "secret" not in str(caught.value), "a message never repeats what could be a key"


def test_a_change_holds_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_RECHECK_S", 0.0)
    file = write(tmp_path / "keys.toml", f'[alice]\nsha256 = "{sha256(SECRET)}"')
    ring = KeyRing(file=KeyFile(file))
    sent = request(authorization=f"Bearer {SECRET}")
    assert ring.identify(sent).name == "alice"
    write(file, "[alice")  # half written: the keys stay
    assert ring.identify(sent).name == "alice"
    write(file, f'[bob]\nsha256 = "{sha256("other")}"')
    with pytest.raises(UnauthorizedError, match="not known"):
        ring.identify(sent)
    assert ring.identify(request(x_api_key="other")).name == "bob"


def test_who_a_request_is_from() -> None:
    ring = KeyRing(["one", "two"], "the administrators'")
    assert ring.required
    assert ring.identify(request(authorization="bearer two")).name == "api-key"
    assert ring.identify(request(x_api_key="one")).secret == "one"
    both = request(authorization="Bearer of a proxy", x_api_key="the administrators'")
    assert ring.identify(both).may(Role.ADMIN), "whichever of the two is known"
    for unknown in (request(), request(authorization="Basic one"), request(x_api_key="")):
        with pytest.raises(UnauthorizedError, match="no API key was sent"):
            ring.identify(unknown)
    open_ring = KeyRing()
    assert not open_ring.required
    anonymous = open_ring.identify(request(authorization="Bearer none"))
    assert (anonymous.name, anonymous.secret) == ("anonymous", "none")
    assert "none" not in repr(anonymous)


def test_requests_per_minute() -> None:
    async def send() -> None:
        quotas, key = Quotas(), Key("alice", frozenset(), requests_per_minute=3)
        for _ in range(3):
            await quotas.count(key)
            await quotas.count(Key("bob", frozenset()))
        with pytest.raises(RateLimitError, match="3 requests in a minute") as caught:
            await quotas.count(key)
        assert 0 < caught.value.retry_after_s <= 60

    asyncio.run(send())


def test_rows_at_once() -> None:
    quotas, key = Quotas(), Key("alice", frozenset(), rows=4)
    with (
        quotas.hold(key, 3),
        pytest.raises(RateLimitError, match="take 3 now"),
        quotas.hold(key, 2),
    ):
        pass
    with quotas.hold(key, 4):
        pass
    with pytest.raises(RequestBoundError, match="fewer members"), quotas.hold(key, 5):
        pass
