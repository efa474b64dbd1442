"""What a profile says, in JSON and to routers."""

from __future__ import annotations

import pytest

from adapters.errors import ProfileError
from adapters.store.profile import EMPTY_PROFILE, MAX_EXAMPLES, MAX_PROFILE_BYTES, Profile


@pytest.mark.parametrize(
    "profile",
    [
        EMPTY_PROFILE,
        Profile(examples=("one", "zwei"), description="counts"),
        Profile(examples=()),
        Profile(description=""),
        Profile(description="\ud800"),
    ],
)
def test_json_tells_all(profile: Profile) -> None:
    assert Profile.from_json(profile.model_dump()) == profile


def test_what_is_not_said_is_kept() -> None:
    before = Profile(examples=("one",), description="counts")
    assert EMPTY_PROFILE.merged_over(before) == before
    two = Profile(examples=("two",)).merged_over(before)
    assert two == Profile(examples=("two",), description="counts")
    nothing = Profile(examples=(), description="adds")
    assert nothing.merged_over(before) == nothing


def test_what_prompts_are_compared_with() -> None:
    assert EMPTY_PROFILE.texts == Profile(examples=(), description="").texts == ()
    assert Profile(examples=("one", "two"), description="counts").texts == ("one", "two")
    assert (
        Profile(examples=(), description="counts").texts
        == Profile(description="counts").texts
        == ("counts",)
    )


def test_as_much_as_there_is_room_for() -> None:
    texts = ["ä" * (MAX_PROFILE_BYTES // 4)] * 2
    assert Profile.from_json({"examples": texts}).examples == tuple(texts)
    assert len(Profile.from_json({"examples": ["x"] * MAX_EXAMPLES}).texts) == MAX_EXAMPLES
    with pytest.raises(ProfileError, match=f"{MAX_PROFILE_BYTES + 1} bytes") as caught:
        Profile.from_json({"examples": texts, "description": "x"})
    assert caught.value.param == "examples"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "profile is null"),
        (["one"], "profile is a list of 1"),
        ({"example": ["one"]}, "example is not a field; did you mean 'examples'?"),
        ({"examples": "one"}, "examples is 'one'"),
        ({"examples": ["one", " \n"]}, r"examples\[1\]: it is not a text"),
        ({"examples": [1]}, r"examples\[0\]: it is not a text"),
        (
            {"examples": ["x"] * (MAX_EXAMPLES + 1)},
            f"list of {MAX_EXAMPLES + 1}; it should have at most {MAX_EXAMPLES} items",
        ),
        ({"description": ["one"]}, "description: it is a list of 1; give a text"),
    ],
)
def test_what_is_no_profile(value: object, message: str) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        Profile.from_json(value)
    assert caught.value.param is not None
