"""The bodies of publications: what they may hold, and which error a wrong value is."""

from __future__ import annotations

import pytest

from adapters.store.profile import MAX_PROFILE_BYTES
from composer.errors import ComposerError
from server.publishing.bodies import LoadAdapter, Publication, UploadFields, read_body

LONG = {"examples": ["x" * MAX_PROFILE_BYTES, "x"]}
LOAD = {"lora_name": "polite", "lora_path": "polite"}
SECRET = "sk-secret"


def refusal(model: type[Publication | UploadFields], body: object) -> tuple[str, str | None, str]:
    """The code, the parameter and the message of the error for `body`."""
    with pytest.raises(ComposerError) as caught:
        read_body(model, body)
    return caught.value.code, caught.value.param, caught.value.message


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("policy", "invalid_policy"),
        ("source", "invalid_request"),
        ("merge", "invalid_merge"),
        ("extract", "invalid_merge"),
        ("patch", "invalid_merge"),
    ],
)
def test_null_is_no_value(field: str, code: str) -> None:
    """A policy of null would otherwise open a new alias to everybody."""
    body = {"source": "polite"} if field != "source" else {"patch": {"source": "polite"}}
    assert refusal(Publication, body | {field: None})[:2] == (code, field)
    read_body(Publication, body)


def test_a_form_has_no_policy_of_null_either() -> None:
    assert refusal(UploadFields, {"policy": None})[:2] == ("invalid_policy", "policy")


@pytest.mark.parametrize(
    "policy", [SECRET, [SECRET], {"keys": SECRET}, {"compositions": SECRET}, {"keys": [7, SECRET]}]
)
def test_messages_about_policies_show_no_keys(policy: object) -> None:
    code, param, message = refusal(Publication, {"source": "polite", "policy": policy})
    assert code == "invalid_policy"
    assert param
    assert param.startswith("policy")
    assert param in message
    assert SECRET not in message


@pytest.mark.parametrize("field", ["policy", "merge", "extract", "patch"])
def test_messages_speak_of_json(field: str) -> None:
    _, _, message = refusal(Publication, {"source": "polite", field: 3})
    assert "object" in message
    assert "dictionary" not in message
    members = {"method": "sum", "adapters": 3}
    assert "list" in refusal(Publication, {"merge": members})[2]


def test_too_large_a_profile() -> None:
    expected = ("invalid_profile", "examples")
    assert refusal(Publication, {"source": "polite", **LONG})[:2] == expected
    with pytest.raises(ComposerError) as caught:
        read_body(LoadAdapter, LOAD | LONG).profile  # noqa: B018
    assert (caught.value.code, caught.value.param) == expected


def test_vllms_body_may_hold_null() -> None:
    assert not read_body(LoadAdapter, LOAD | {"load_inplace": None}).load_inplace
