"""`composer bake`: one adapter for a sum of adapters, and how far it is from the sum."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from clients.cli.baking.bakeable import BASE, DISTIL, bakeable
from clients.cli.connection import asks_server, connect_as_administrator
from clients.cli.local_work import Step, show_progress
from clients.cli.scoring.item_file import read_texts
from clients.cli.shared_options import CompositionJson, at_most_one, composition_of
from clients.cli.tables import Json, print_table

if TYPE_CHECKING:
    from clients.client import Client

BATCH = 32
"""Items of one request."""


@asks_server(connect_as_administrator)
def bake(
    client: Client,
    name: Annotated[str, Option(metavar="ALIAS", help="Name of the adapter to publish.")],
    texts: Annotated[
        str,
        Option(
            metavar="FILE",
            help="JSON lines that nothing was trained on, each with a text, or with a prompt or "
            "messages and a completion; '-' reads standard input.",
        ),
    ],
    formula: Annotated[
        str | None,
        Argument(metavar="FORMULA", help="Such as 'base + 0.8*chat - 0.5*polite'."),
    ] = None,
    composition: CompositionJson = None,
    rank: Annotated[
        int | None,
        Option(
            help="Of the adapter. Default: the sum of the adapters' ranks, which loses nothing."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Publish one adapter for a sum of adapters, and say how far the adapter is from the sum."""
    at_most_one({"FORMULA": formula, "--composition": composition})
    asked = composition_of(formula, None, composition, None)
    if asked is None:
        raise typer.BadParameter("what to bake is missing: give FORMULA or --composition")
    items = read_texts(texts)
    plan = client.score(items[:1], compositions=[asked]).plans[0]
    aliases = [entry.alias for entry in client.list_adapters().data]
    recipe = bakeable(plan, aliases)
    if name in recipe.adapters:
        raise typer.BadParameter(f"'{name}' is part of the sum; give another name")
    entry = client.put_adapter(name, merge=recipe.merge(rank))
    baked = {"members": [{"model": name, "weight": recipe.total}]}
    with show_progress() as step:
        tokens, rows = _compared(client, items, [asked, baked, BASE], step)
    request = name if abs(recipe.total - 1) < 1e-6 else rows[1]["formula"]
    names = (recipe.formula, request, BASE)
    report = {
        "alias": name,
        "version": entry.number,
        "rank": entry.adapter.rank if entry.adapter is not None else None,
        "adapters": recipe.adapters,
        "items": len(items),
        "tokens": tokens,
        "compositions": [row | {"model": n} for n, row in zip(names, rows, strict=True)],
        "request": {"model": request},
    }
    if json:
        print(dumps(report))
    else:
        _print(report, recipe.total)


def _compared(
    client: Client, items: Sequence[Mapping[str, object]], compositions: Sequence[Any], step: Step
) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of tokens; the formula of each composition, and means over all tokens."""
    log_probs = [0.0] * len(compositions)
    distances = [0.0] * len(compositions)
    tokens, formulas = 0, [""]
    for begin in range(0, len(items), BATCH):
        step(begin, len(items), "compare")
        batch = items[begin : begin + BATCH]
        scored = client.score(batch, compositions=compositions, divergences=True)
        formulas = [str(plan["formula"]) for plan in scored.plans]
        for item in scored.data:
            tokens += len(item.token_ids)
            for index, score in enumerate(item.compositions):
                log_probs[index] += sum(score.token_logprobs)
                distances[index] += sum(score.token_divergences)
    return tokens, [
        {
            "formula": formula,
            "divergence": distance / tokens,
            "logprob": log_prob / tokens,
        }
        for formula, distance, log_prob in zip(formulas, distances, log_probs, strict=True)
    ]


def _print(report: Mapping[str, Any], total: float) -> None:
    header = ("per token, in nats", "KL from the sum", "log-probability")
    rows = [
        (c["model"], f"{c['divergence']:.4f}", f"{c['logprob']:.4f}")
        for c in report["compositions"]
    ]
    print_table([header, *rows], numbers=True)
    print(
        f"\n{report['alias']}: version {report['version']}, rank {report['rank']}; "
        f"{report['items']} items, {report['tokens']} tokens"
    )
    print(f'\ncomposer chat --model "{report["request"]["model"]}"', flush=True)
    if abs(total - 1) > 1e-6:
        print(
            f"composer: the weights of the sum add up to {total:.4g}, which is the weight of the "
            f"adapter; a server without compositions divides its temperature by {total:.4g}",
            file=sys.stderr,
        )
    _, baked, base = report["compositions"]
    if baked["divergence"] >= base["divergence"]:
        print(
            "composer: warning: the adapter is farther from the sum than the base alone is: sums "
            f"of changes do not express this one. {DISTIL}",
            file=sys.stderr,
        )
