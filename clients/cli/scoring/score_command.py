"""`composer score`: the log-probabilities of texts under a composition."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from clients.cli.connection import asks_server, connect_patiently
from clients.cli.local_work import show_progress
from clients.cli.scoring.item_file import read_items
from clients.cli.scoring.resumed_output import Line, Output, digests, opened, resume
from clients.cli.scoring.score_lines import totals
from clients.cli.shared_options import (
    Assignments,
    CompositionJson,
    Formula,
    RecipeName,
    at_most_one,
    composition_of,
)

if TYPE_CHECKING:
    from clients.client import Client

BATCH = 32
"""Items of one request."""

BASE = "base"
"""The base model, which scores if no composition is given."""


@asks_server(connect_patiently)
def score(
    client: Client,
    file: Annotated[
        str,
        Argument(
            metavar="FILE",
            help="JSON lines, each with a prompt or messages, and a completion; '-' reads "
            "standard input.",
        ),
    ],
    model: Annotated[
        str | None,
        Option(help="base, an adapter, a stored composition or a formula. Default: base."),
    ] = None,
    formula: Formula = None,
    recipe: RecipeName = None,
    composition: CompositionJson = None,
    set_: Assignments = None,
    members: Annotated[bool, Option("--members", help="Score every member alone, too.")] = False,
    against: Annotated[
        list[str] | None,
        Option(
            metavar="FORMULA",
            help="Also say how far this is: KL(composition || FORMULA) in nats. Repeatable.",
        ),
    ] = None,
    output: Output = None,
) -> None:
    """Print the log-probability of each completion, as JSON lines."""
    at_most_one({
        **{"--model": model, "--formula": formula, "--recipe": recipe},
        "--composition": composition,
    })  # fmt: skip
    composed = composition_of(formula, recipe, composition, set_)
    asked: dict[str, Any] = {"model": model, "composition": composed, "members": members}
    if against:
        asked = {"compositions": [composed or model or BASE, *against], "divergences": True}
        asked["members"] = members
    items = read_items(file)
    marks = digests(items, asked)
    lines = [] if output is None else resume(output, marks)
    with opened(output) as out, show_progress() as step:
        for begin in range(len(lines), len(items), BATCH):
            step(begin, len(items), "score")
            batch = _score(client, items[begin : begin + BATCH], begin, asked)
            for line, mark in zip(batch, marks[begin:], strict=False):
                line["digest"] = mark
                print(dumps(line), file=out)
            out.flush()
            lines += batch
    for name, total in totals(lines):
        print(f"composer: {name}: {total}", file=sys.stderr)


def _score(
    client: Client, items: Sequence[dict[str, Any]], begin: int, asked: dict[str, Any]
) -> list[Line]:
    """Return the lines of a batch of items, the first of which has the index `begin`."""
    from clients.errors import ApiError

    try:
        scored = client.score(items, **asked)
    except ApiError as error:
        error.message = f"items {begin} to {begin + len(items) - 1}: {error.message}"
        raise
    lines = []
    for item in scored.data:
        line = item.model_dump(mode="json", exclude={"index", "compositions"}, exclude_unset=True)
        if item.compositions:
            own, *others = (
                c.model_dump(mode="json", exclude_unset=True) for c in item.compositions
            )
            line |= {name: own[name] for name in ("logprob", "token_logprobs", "impossible")}
            names = asked["compositions"][1:]
            line["against"] = [{"model": n, **o} for n, o in zip(names, others, strict=True)]
        lines.append({"index": begin + item.index, **line})
    return lines
