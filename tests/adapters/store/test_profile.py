"""What a profile says, in JSON and to routers."""

from __future__ import annotations

import pytest

from adapters.errors import ProfileError
from adapters.store.profile import EMPTY_PROFILE, MOST_BYTES, MOST_EXAMPLES, Profile


@pytest.mark.parametrize(
    "profile",
    [EMPTY_PROFILE, Profile(("one", "zwei"), "counts"), Profile(()), Profile(description="")],
)
def test_json_tells_all(profile: Profile) -> None:
    assert Profile.from_json(profile.to_json()) == profile


def test_what_is_not_said_is_kept() -> None:
    before = Profile(("one",), "counts")
    assert EMPTY_PROFILE.over(before) == before
    assert Profile(("two",)).over(before) == Profile(("two",), "counts")
    assert Profile((), "adds").over(before) == Profile((), "adds")


def test_what_prompts_are_compared_with() -> None:
    assert EMPTY_PROFILE.texts == Profile((), "").texts == ()
    assert Profile(("one", "two"), "counts").texts == ("one", "two")
    assert Profile((), "counts").texts == Profile(description="counts").texts == ("counts",)


def test_as_much_as_there_is_room_for() -> None:
    texts = ["ä" * (MOST_BYTES // 4)] * 2
    assert Profile.from_json({"examples": texts}).examples == tuple(texts)
    assert len(Profile.from_json({"examples": ["x"] * MOST_EXAMPLES}).texts) == MOST_EXAMPLES
    with pytest.raises(ProfileError, match=f"{MOST_BYTES + 1} bytes"):
        Profile.from_json({"examples": texts, "description": "x"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "not NoneType"),
        (["one"], "not list"),
        ({"example": ["one"]}, "no field 'example'"),
        ({"examples": "one"}, "examples is of the type str"),
        ({"examples": ["one", " \n"]}, r"examples\[1\] is no text"),
        ({"examples": [1]}, r"examples\[0\] is no text"),
        ({"examples": ["x"] * (MOST_EXAMPLES + 1)}, f"has {MOST_EXAMPLES + 1} texts"),
        ({"description": ["one"]}, "description is of the type list"),
    ],
)
def test_what_is_no_profile(value: object, message: str) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        Profile.from_json(value)
    assert caught.value.param is not None
