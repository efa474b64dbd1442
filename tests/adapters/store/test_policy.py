"""What a policy says, in JSON and of API keys."""

from __future__ import annotations

import hashlib

import pytest

from adapters.errors import PolicyError
from adapters.store.policy import Policy

SECRET = "sk-secret"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(compositions=False),
        Policy(negative=False, keys=()),
        Policy(keys=(f"sha256:{HASH}", f"sha256:{'f' * 64}")),
    ],
)
def test_json_tells_all(policy: Policy) -> None:
    assert Policy.from_json(policy.model_dump()) == policy


def test_missing_fields_allow() -> None:
    assert Policy.from_json({}) == Policy() == Policy(compositions=True, negative=True, keys=None)
    assert Policy.from_json({"negative": False}) == Policy(negative=False)
    assert Policy.from_json({"keys": None}) == Policy()


def test_keys_are_kept_as_hashes() -> None:
    policy = Policy.from_json({"keys": [SECRET, f"sha256:{HASH.upper()}", "other"]})
    assert policy.keys is not None
    assert len(policy.keys) == 2
    assert f"sha256:{HASH}" in policy.keys
    assert SECRET not in repr(policy) + str(policy.model_dump())
    assert policy == Policy.from_json({"keys": ["other", SECRET]})


def test_who_may_use_it() -> None:
    assert Policy().allows_key(None)
    assert Policy().allows_key("any")
    some = Policy.from_json({"keys": ["other", SECRET]})
    assert some.allows_key(SECRET)
    assert some.allows_key("other")
    assert not some.allows_key(None)
    assert not some.allows_key("")
    assert not some.allows_key(HASH), "the hash is not the key"
    assert not Policy(keys=()).allows_key(SECRET)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "policy should be an object"),
        (SECRET, "policy should be an object"),
        ({"composition": False}, "composition is not a field; did you mean 'compositions'?"),
        ({1: False}, r"policy\['1'\] is not a field"),
        ({"negative": 0}, "policy.negative should be a valid boolean"),
        ({"compositions": SECRET}, "policy.compositions should be a valid boolean"),
        ({"compositions": None}, "policy.compositions should be a valid boolean"),
        ({"keys": SECRET}, "policy.keys: it is not a list"),
        ({"keys": {SECRET: True}}, "policy.keys: it is not a list"),
        ({"keys": [""]}, r"policy.keys\[0\]: it is not a text"),
        ({"keys": [SECRET, 7]}, r"policy.keys\[1\]: it is not a text"),
        ({"keys": [f"sha256:{SECRET}"]}, r"policy.keys\[0\]: it begins with sha256:"),
        ({"keys": [f"sha256:{HASH}0"]}, r"policy.keys\[0\]: it begins with sha256:"),
    ],
)
def test_what_is_no_policy(value: object, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        Policy.from_json(value)
    assert SECRET not in caught.value.message
    assert caught.value.param is not None
