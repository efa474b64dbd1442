"""`composer recipes`: the published methods that a composition can name, and the routers."""

from __future__ import annotations

from collections.abc import Iterator
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument

from clients.cli.shared_options import recipe_names
from clients.cli.tables import JsonLines, wants_lines

if TYPE_CHECKING:
    from composer.mixtures.routers import RouterKind
    from composer.recipes import Recipe


def recipes(
    name: Annotated[
        str | None,
        Argument(metavar="NAME", help="Show only this one.", autocompletion=recipe_names),
    ] = None,
    json: JsonLines = None,
) -> None:
    """List recipes and routers, with their parameters and citations."""
    from composer.mixtures.routers import ROUTERS
    from composer.recipes import RECIPES

    listed = [("recipe", recipe) for recipe in RECIPES] + [("router", kind) for kind in ROUTERS]
    chosen = [(kind, entry) for kind, entry in listed if name in (None, entry.name)]
    if not chosen:
        names = ", ".join(entry.name for _, entry in listed)
        raise typer.BadParameter(f"'{name}' is not one of {names}", param_hint="NAME")
    for kind, entry in chosen:
        if wants_lines(json):
            print(dumps(_as_json(kind, entry)))
        else:
            print("\n".join(_as_text(kind, entry)), end="\n\n")


def _as_json(kind: str, entry: Recipe[Any] | RouterKind[Any, Any]) -> dict[str, object]:
    texts = {name: getattr(entry, name) for name in ("name", "title", "formula", "citation")}
    return {"kind": kind, **texts, "parameters": _parameters(entry)}


def _as_text(kind: str, entry: Recipe[Any] | RouterKind[Any, Any]) -> Iterator[str]:
    yield f"{kind} {entry.name}: {entry.formula}"
    yield f"    {entry.citation}"
    for name, parameter in _parameters(entry).items():
        default = f"={dumps(parameter['default'])}" if "default" in parameter else ""
        yield f"    {name}{default}: {parameter['description']}"


def _parameters(entry: Recipe[Any] | RouterKind[Any, Any]) -> dict[str, dict[str, object]]:
    """Return each parameter's description and default, or that it is required."""
    schema = entry.fields.model_json_schema()
    return {
        name: {"description": " ".join(field.get("description", "").split())}
        | ({"default": field["default"]} if "default" in field else {"required": True})
        for name, field in schema["properties"].items()
        if name not in ("recipe", "kind")  # which name the method
    }
