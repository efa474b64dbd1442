"""Formulas: their values, and an error that points at the place for everything else."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from composer.errors import FormulaSyntaxError
from composer.formula import MAX_LENGTH, MAX_NESTING, format_number, format_sum, parse, quote_name

NAMES = st.text(min_size=1, max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("base", [("base", 1)]),
        ("-base", [("base", -1)]),
        ("--base", [("base", 1)]),
        ("- -2*-base", [("base", -2)]),
        ("base + 0.8*polite", [("base", 1), ("polite", 0.8)]),
        ("base+.8*(polite-rude)", [("base", 1), ("polite", 0.8), ("rude", -0.8)]),
        ("base - (polite - rude)", [("base", 1), ("polite", -1), ("rude", 1)]),
        ("a - b - c", [("a", 1), ("b", -1), ("c", -1)]),
        ("a*2/4", [("a", 0.5)]),
        ("a/2*4", [("a", 2)]),
        ("a/2/4", [("a", 0.125)]),
        ("(1 + 2*3 - 4/2)*a", [("a", 5)]),
        ("2*(3*a)*4", [("a", 24)]),
        ("(a + b)*(1 - 3)", [("a", -2), ("b", -2)]),
        ("1e-3*a + 2E+2*b + 1.*c", [("a", 0.001), ("b", 200), ("c", 1)]),
        ("a + a", [("a", 1), ("a", 1)]),  # merging is the plan's business
        ("0*a", [("a", 0)]),
        ("small:chat - v1.5_x", [("small:chat", 1), ("v1.5_x", -1)]),
        ("'any-name/with.chars' + ' '", [("any-name/with.chars", 1), (" ", 1)]),
        ("'it''s'", [("it's", 1)]),
        ("\tbase\n + \r\n rude ", [("base", 1), ("rude", 1)]),
        ("code-v2", [("code", 1), ("v2", -1)]),
        ("e5*a" + " + b" * 2, None),
    ],
)
def test_value(text: str, terms: list[tuple[str, float]] | None) -> None:
    if terms is None:  # e5 is a name, so this is a product of models
        with pytest.raises(FormulaSyntaxError):
            parse(text)
    else:
        assert parse(text) == tuple(terms)


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("", 0, "the formula is empty; name at least one model"),
        ("   ", 3, "the formula is empty; name at least one model"),
        ("2 base", 2, "expected + - * / or the end, found 'base'; write '*' after 2"),
        ("2(a)", 1, "expected + - * / or the end, found '('; write '*' after 2"),
        ("(2 base)", 3, "expected + - * / or ')', found 'base'; write '*' after 2"),
        ("base polite", 5, "expected + - * / or the end, found 'polite'"),
        ("a)", 1, "expected + - * / or the end, found ')'"),
        ("(a + b", 6, "expected + - * / or ')', found the end"),
        ("()", 1, "expected a model, a number or '(', found ')'"),
        ("base +", 6, "expected a model, a number or '(', found the end"),
        ("+base", 0, "expected a model, a number or '(', found '+'"),
        ("a ** 2", 3, "expected a model, a number or '(', found '*'"),
        ("base + 1", 7, "a constant cannot be added to a model"),
        ("base + 0", 7, "a constant cannot be added to a model"),
        ("1 - base", 0, "a constant cannot be added to a model"),
        ("2*(base - 3)", 10, "a constant cannot be added to a model"),
        ("1 + 2", 0, "the formula is the constant 3; multiply a model by it"),
        ("a*b", 2, "a model cannot be multiplied by a model; one side must be a number"),
        ("2*a*(b)", 4, "a model cannot be multiplied by a model; one side must be a number"),
        ("1/a", 2, "a model cannot be a divisor; divide by a number"),
        ("a/0", 2, "division by zero; divide by another number"),
        ("a/(1 - 1)", 2, "division by zero; divide by another number"),
        ("a/1e-400", 2, "division by zero; divide by another number"),
        ("1e999*a", 0, "the number 1e999 is too large"),
        ("a + 'b", 4, "the quote is not closed; end the name with '"),
        ("'it''s", 0, "the quote is not closed; end the name with '"),
        ("a + ''", 4, "the name between the quotes is empty; name a model"),
        ("base[x]", 4, "a formula cannot give a member a prompt of its own; use 'members'"),
        ("a + é", 4, "unexpected character 'é'; formulas know numbers, names and + - * / ( )"),
        ("a \u2212 b", 2, "unexpected character '\u2212'; formulas know"),
        ("\u0663*a", 0, "unexpected character '\u0663'"),  # a digit, but not one of ours
        ("(" * 51 + "a" + ")" * 51, 50, f"more than {MAX_NESTING} parentheses within each other"),
        ("a" * 2001, 2000, "the formula has 2001 characters; write at most 2000"),
    ],
)
def test_error(text: str, position: int, problem: str) -> None:
    with pytest.raises(FormulaSyntaxError) as caught:
        parse(text)
    error = caught.value
    assert error.position == position
    headline, excerpt, caret = error.message.split("\n")
    assert headline.startswith(problem)
    assert headline.endswith(f"(position {position})")
    assert caret.strip() == "^"
    at = caret.index("^")
    if len(text) < 30:
        assert excerpt == f"  {text}"
        assert at == len("  ") + position
    elif position < len(text):
        assert excerpt[at] == text[position]


def test_the_excerpt_of_a_long_formula_is_a_window_around_the_place() -> None:
    text = " + ".join(["base"] * 40) + " ? " + " + ".join(["rude"] * 40)
    with pytest.raises(FormulaSyntaxError) as caught:
        parse(text)
    _, excerpt, caret = caught.value.message.split("\n")
    assert excerpt[caret.index("^")] == "?"
    assert excerpt.strip().startswith("…")
    assert excerpt.endswith("…")
    assert len(excerpt) < 80


def test_the_limits_themselves_are_allowed() -> None:
    assert parse("(" * MAX_NESTING + "a" + ")" * MAX_NESTING) == (("a", 1.0),)
    assert parse("(a) + " * 100 + "a") == (("a", 1.0),) * 101  # beside, not within
    assert parse("-" * (MAX_LENGTH - 2) + "-a") == (("a", -1.0),)


def test_overflow_is_left_to_the_plan() -> None:
    assert parse("1e308*10*a") == (("a", math.inf),)


@given(st.text(max_size=40) | st.text("ab01.e+-*/() '[", max_size=40))
@example("'" * 39)
@example("(" * 1999 + "a")
@example("1/(1e-320)*a")
def test_any_text_is_a_formula_or_a_syntax_error(text: str) -> None:
    try:
        terms = parse(text)
    except FormulaSyntaxError as error:
        assert 0 <= error.position <= len(text)  # noqa: PT017 (the other outcome is fine too)
    else:
        assert terms


@given(NAMES)
@example("'")
@example("''a'")
@example("base\n")
def test_any_name_can_be_written(name: str) -> None:
    assert parse(quote_name(name)) == ((name, 1.0),)
    assert parse(f"2*{quote_name(name)} - base") == ((name, 2.0), ("base", -1.0))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("polite", "polite"),
        ("small:chat", "small:chat"),
        ("code-v2", "'code-v2'"),
        ("2fast", "'2fast'"),
        ("é", "'é'"),
        ("it's", "'it''s'"),
        ("base\n", "'base\n'"),
    ],
)
def test_names_are_quoted_where_they_must(name: str, written: str) -> None:
    assert quote_name(name) == written


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (0.8, "0.8"), (-2.5, "-2.5"), (100.0, "100"), (1e-5, "1e-05"), (1e16, "1e+16")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


@given(FLOATS)
def test_numbers_read_back_exactly(value: float) -> None:
    assert parse(f"{format_number(abs(value))}*a") == (("a", abs(value)),)


@given(st.lists(st.tuples(NAMES, FLOATS), min_size=1, max_size=6))
def test_sums_read_back_exactly(terms: list[tuple[str, float]]) -> None:
    text = format_sum((quote_name(name), weight) for name, weight in terms)
    assert parse(text) == tuple(terms)


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ([("a", 1.0)], "a"),
        ([("a", -1.0), ("b", -1.0)], "-a - b"),
        ([("a", 0.5), ("b", -0.25)], "0.5*a - 0.25*b"),
        ([("a", 0.0), ("b", 1.0)], "0*a + b"),
    ],
)
def test_sums_are_written_as_people_do(terms: list[tuple[str, float]], text: str) -> None:
    assert format_sum(terms) == text
