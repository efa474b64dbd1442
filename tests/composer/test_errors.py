"""The tree of errors: what a client sees of each."""

from __future__ import annotations

import inspect

import pytest

from composer import errors
from composer.errors import (
    ComposerError,
    CompositionError,
    EngineFault,
    UnknownModelError,
    quoted,
)

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, ComposerError)
]


def test_every_class_has_a_code_of_its_own() -> None:
    codes = [vars(cls).get("code") for cls in CLASSES]
    assert None not in codes
    assert len(set(codes)) == len(CLASSES)


def test_every_class_is_either_the_clients_or_the_servers_fault() -> None:
    for cls in set(CLASSES) - {ComposerError}:
        assert issubclass(cls, CompositionError) != issubclass(cls, EngineFault)


def test_every_class_is_drawn_in_the_tree() -> None:
    drawing = errors.__doc__ or ""
    for cls in CLASSES:
        assert f" {cls.__name__} " in f" {drawing} ".replace("\n", " "), cls


def test_an_error_carries_message_and_param() -> None:
    error = errors.WeightError("too heavy", param="composition.alpha")
    assert str(error) == error.message == "too heavy"
    assert error.param == "composition.alpha"
    assert error.code == "invalid_weight"
    assert errors.WeightError("too heavy").param is None


@pytest.mark.parametrize(
    ("name", "known", "suggestion"),
    [
        ("polit", ["base", "polite", "rude"], "'polite'"),
        ("code", ["base", "code-v2"], "'code-v2'"),  # code-v2 without quotes in a formula
        ("co", ["base", "code-v2"], "'code-v2'"),
    ],
)
def test_an_unknown_model_suggests_the_nearest(
    name: str, known: list[str], suggestion: str
) -> None:
    message = UnknownModelError(name, known).message
    assert message.startswith(f"model '{name}' is not served here; did you mean {suggestion}?")


def test_an_unknown_model_without_a_near_one_suggests_none() -> None:
    message = UnknownModelError("zzz", ["rude", "base"]).message
    assert message == "model 'zzz' is not served here. Use one of: 'base', 'rude'."


def test_an_unknown_model_lists_at_most_twenty_names() -> None:
    known = [f"adapter-{n:02}" for n in range(23)]
    message = UnknownModelError("zzz", known[::-1]).message
    listed = ", ".join(f"'{name}'" for name in known[:20])
    assert message.endswith(f"Use one of: {listed} and 3 more.")
    exactly = UnknownModelError("zzz", known[:20]).message
    assert exactly.endswith(f"Use one of: {listed}.")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("polite", "'polite'"),
        ("a\nb\x00", r"'a\nb\x00'"),
        ("\ud800", r"'\ud800'"),  # JSON may contain it; UTF-8 may not
        ("x" * 80, "'" + "x" * 80 + "'"),
        ("x" * 81, "'" + "x" * 79 + "…'"),
    ],
)
def test_quoted_keeps_messages_short_and_on_one_line(value: str, shown: str) -> None:
    assert quoted(value) == shown
