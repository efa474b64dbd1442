"""`composer fit`: the weights of a composition, from examples of what it should answer."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from clients.cli.composition_commands import content_of
from clients.cli.connection import asks_server, connect_patiently
from clients.cli.local_work import REFUSED, show_progress
from clients.cli.scoring.item_file import read_items
from clients.cli.shared_options import IfMatch, New, assignments, at_most_one
from clients.cli.tables import Json, print_table

if TYPE_CHECKING:
    from clients.client import Client
    from clients.scoring.scoring_responses import FittedComposition, FittedWeight


@asks_server(connect_patiently)
def fit(
    client: Client,
    examples: Annotated[
        str,
        Option(
            metavar="FILE",
            help="JSON lines, each with a prompt or messages, and the wanted completion; '-' "
            "reads standard input.",
        ),
    ],
    formula: Annotated[
        str | None,
        Argument(
            metavar="FORMULA",
            help="A sum with free names, such as 'chat + a*(polite - rude)'.",
        ),
    ] = None,
    experts: Annotated[
        str | None,
        Option(metavar="NAME,NAME,...", help="In place of FORMULA: weights of a mixture."),
    ] = None,
    start: Annotated[
        list[str] | None,
        Option(metavar="NAME=VALUE", help="Where a free name starts. Default: 0. Repeatable."),
    ] = None,
    bounds: Annotated[
        list[str] | None,
        Option(metavar="NAME=LOW:HIGH", help="Limits of a free name. Repeatable."),
    ] = None,
    held_out: Annotated[
        float | None,
        Option(help="Share of the examples that judge the result. Default: 0.25."),
    ] = None,
    ridge: Annotated[
        float | None, Option(help="How strongly values are pulled towards the start.")
    ] = None,
    max_passes: Annotated[
        int | None, Option(help="How often the examples are read at most. Default: 10.")
    ] = None,
    name: Annotated[
        str | None,
        Option(help="Store the fitted composition under this name, if the search converges."),
    ] = None,
    if_match: IfMatch = None,
    new: New = False,
    json: Json = False,
) -> None:
    """Find the weights that give examples the highest probability."""
    if (formula is None) == (experts is None):
        raise typer.BadParameter("give either FORMULA or --experts")
    at_most_one({"--if-match": if_match, "--new": new})
    if name is None and (new or if_match is not None):
        raise typer.BadParameter("--if-match and --new are conditions on a name; give --name")
    items = read_items(examples)
    with show_progress() as step:
        step(0, 1, f"fit {len(items)} examples")
        fitted = client.fit(
            items,
            formula=formula,
            experts=None if experts is None else experts.split(","),
            start=_numbers("--start", start),
            bounds=_bounds(bounds),
            held_out=held_out,
            ridge=ridge,
            max_passes=max_passes,
            name=name,
            if_match=if_match,
            if_none_match=new,
        )
    if json:
        print(fitted.model_dump_json(exclude_unset=True))
    else:
        _print(fitted)
    if not fitted.converged or (name is not None and fitted.stored is None):
        raise typer.Exit(REFUSED)


def _print(fitted: FittedComposition) -> None:
    likely = fitted.log_likelihood_per_token
    print_table([(name, _shown(weight)) for name, weight in fitted.weights.items()])
    print(f"\nlog-likelihood per token, of {fitted.judged_on}:")
    values = {"start": likely.start, "fit": likely.fit}
    values |= {f"{name} alone": value for name, value in likely.members.items()}
    print_table([(name, f"{value:.4f}") for name, value in values.items()], numbers=True)
    if (stored := fitted.stored) is not None:
        print(f"\n{stored.name}  version {stored.version}  {content_of(stored)}")
    print(f"\n{_request(fitted.request)}", flush=True)  # before the warnings
    for warning in fitted.warnings:
        print(f"composer: warning: {warning}", file=sys.stderr)


def _shown(weight: FittedWeight) -> str:
    error = "?" if weight.standard_error is None else f"{weight.standard_error:.4f}"
    return f"{weight.value:.4f} ± {error}"


def _request(fields: Mapping[str, object]) -> str:
    """Return the command that asks the fitted composition."""
    composition = fields.get("composition")
    if composition is None:
        return f"composer chat --model {_quoted(str(fields['model']))}"
    return f"composer chat --composition {_quoted(dumps(composition))}"


def _quoted(text: str) -> str:
    """Return a text as a word of the shell, in double quotes where nothing in it needs others."""
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def _numbers(option: str, texts: Sequence[str] | None) -> dict[str, float] | None:
    """Read values of `option` like NAME=NUMBER; None without any.

    Raises:
        BadParameter: a text has another form, or a name comes twice.
    """
    if texts is None:
        return None
    return {name: _number(option, str(value)) for name, value in assignments(option, texts).items()}


def _bounds(texts: Sequence[str] | None) -> dict[str, tuple[float, float]] | None:
    """Read values of --bounds like NAME=LOW:HIGH; None without any.

    Raises:
        BadParameter: a text has another form, or a name comes twice.
    """
    if texts is None:
        return None
    limits = {}
    for name, value in assignments("--bounds", texts).items():
        low, colon, high = str(value).partition(":")
        if not colon:
            message = f"'{name}={value}' is not NAME=LOW:HIGH"
            raise typer.BadParameter(message, param_hint="--bounds")
        limits[name] = (_number("--bounds", low), _number("--bounds", high))
    return limits


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a number", param_hint=option) from None
