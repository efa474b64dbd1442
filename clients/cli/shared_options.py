"""Options that several commands share, and functions that read their values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

if TYPE_CHECKING:
    from clients.calls import Composition


def recipe_names() -> list[str]:
    """Return the names of all recipes, for the shell's completion."""
    from composer.recipes import RECIPES

    return [recipe.name for recipe in RECIPES]


Formula = Annotated[str | None, Option(help="Such as 'chat + 0.8*(polite - rude)'.")]
RecipeName = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help="Such as proxy_tuning; its parameters with --set. 'composer recipes' lists all.",
        autocompletion=recipe_names,
    ),
]
CompositionJson = Annotated[
    str | None, Option(metavar="JSON", help="The whole composition as JSON, or a formula.")
]
Assignments = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="NAME=VALUE",
        help="A parameter of the recipe; the value is JSON, else text. Repeatable.",
    ),
]
IfMatch = Annotated[int | None, Option(metavar="N", help="Only if the present version is N.")]
New = Annotated[bool, Option("--new", help="Only if nothing has this name yet.")]


def at_most_one(options: Mapping[str, object]) -> None:
    """Refuse options that exclude each other; None and False stand for an absent option.

    Raises:
        BadParameter: two of them are present.
    """
    present = [name for name, value in options.items() if value is not None and value is not False]
    if len(present) > 1:
        raise typer.BadParameter(
            f"not allowed with {present[0]}; give one of them", param_hint=present[1]
        )


def assignments(option: str, texts: Sequence[str] | None) -> dict[str, object]:
    """Read values of `option` like `name=value`; a value is JSON, or text if it is not JSON.

    Raises:
        BadParameter: a text has another form, or a name comes twice.
    """
    values: dict[str, object] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"'{text}' is not NAME=VALUE", param_hint=option)
        if name in values:
            raise typer.BadParameter(f"gives '{name}' twice; give it once", param_hint=option)
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def json_value(option: str, text: str | None, *types: type) -> object:
    """Read the JSON value of `option`; None if it is absent.

    Raises:
        BadParameter: the text is not JSON, or of none of the types.
    """
    if text is None:
        return None
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"'{text}' is not JSON: {error}", param_hint=option) from None
    if not isinstance(value, types):
        what = " or a text" if str in types else ""
        raise typer.BadParameter(f"'{text}' is not a JSON object{what}", param_hint=option)
    return value


def composition_of(
    formula: str | None,
    recipe: str | None,
    composition: str | None,
    parameters: Sequence[str] | None,
) -> Composition | None:
    """Return what --formula, --recipe with --set, or --composition ask for; None without them.

    Raises:
        BadParameter: they contradict each other, or one of them cannot be read.
    """
    at_most_one({"--formula": formula, "--recipe": recipe, "--composition": composition})
    if recipe is not None:
        return {"recipe": recipe, **assignments("--set", parameters)}
    if parameters:
        raise typer.BadParameter("needs --recipe, which is missing", param_hint="--set")
    if composition is not None and not _is_json(composition):
        return composition  # a formula
    value = json_value("--composition", composition, str, dict)
    return formula if value is None else value  # type: ignore[return-value]


def _is_json(text: str) -> bool:
    """Return whether a text is JSON, or begins like JSON that is broken and no formula."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return text.lstrip()[:1] in ("", "{", "[", '"')
    return True
