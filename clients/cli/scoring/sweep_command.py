"""`composer sweep`: one prompt answered with many weights."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from clients.cli.connection import asks_server, connect_patiently
from clients.cli.scoring.sweep_plot import Series, bars, chart
from clients.cli.shared_options import at_most_one
from clients.cli.tables import Json, print_table

if TYPE_CHECKING:
    from clients.client import Client
    from clients.scoring.sweep_responses import SweptGrid, SweptPoint

MIN_TEXT = 30
"""Characters that a terminal shows of an answer at least."""


@asks_server(connect_patiently)
def sweep(
    client: Client,
    formula: Annotated[
        str,
        Argument(
            metavar="FORMULA",
            help="A sum with free names, such as 'chat + a*(polite - rude)'.",
        ),
    ],
    set_: Annotated[
        list[str],
        Option(
            "--set",
            metavar="NAME=VALUE,VALUE,...",
            help="Values of a free name. Repeatable: the grid has every combination.",
        ),
    ],
    prompt: Annotated[str | None, Option(metavar="TEXT", help="A text to continue.")] = None,
    question: Annotated[
        str | None, Option(metavar="TEXT", help="In place of --prompt: a question to answer.")
    ] = None,
    system: Annotated[
        str | None, Option(metavar="TEXT", help="The system message before --question.")
    ] = None,
    reference: Annotated[
        str | None, Option(metavar="TEXT", help="An answer to compute the log-probability of.")
    ] = None,
    plot: Annotated[
        Path | None,
        Option(metavar="FILE.svg", help="Draw the log-probability of the reference."),
    ] = None,
    max_tokens: Annotated[int | None, Option(help="Default: 128.")] = None,
    temperature: Annotated[float | None, Option(help="Default: 0.")] = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Annotated[list[str] | None, Option(help="End of an answer. Repeatable.")] = None,
    json: Json = False,
) -> None:
    """Answer one prompt with every weight of a grid."""
    if (prompt is None) == (question is None):
        raise typer.BadParameter("give either --prompt or --question")
    at_most_one({"--prompt": prompt, "--system": system})
    if plot is not None and reference is None:
        raise typer.BadParameter(
            "draws the log-probability of --reference, which is missing", param_hint="--plot"
        )
    swept = client.sweep(
        formula,
        values=_values(set_),
        prompt=prompt,
        messages=None if question is None else _messages(system, question),
        reference=reference,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
    )
    if json:
        print(swept.model_dump_json(exclude_unset=True))
    else:
        _print(swept)
    if plot is not None:
        plot.write_text(_chart(swept), encoding="utf-8")


def per_token(point: SweptPoint) -> float:
    """Return the log-probability of the reference per token, in nats."""
    assert point.reference is not None
    log_probs = point.reference.token_logprobs
    return sum(log_probs) / len(log_probs)


def _print(swept: SweptGrid) -> None:
    head = [*swept.free]
    columns = [[f"{point.values[name]:g}" for point in swept.data] for name in swept.free]
    if swept.reference is not None:
        heights = list(map(per_token, swept.data))
        head += ["per token", ""]
        columns += [[f"{height:.4f}" for height in heights], bars(heights)]
    texts = [" ".join(point.text.split()) for point in swept.data]
    if sys.stdout.isatty():
        taken = sum(max(map(len, column)) for column in [*columns, *([name] for name in head)])
        width = max(shutil.get_terminal_size().columns - taken, MIN_TEXT)
        texts = [text if len(text) <= width else text[: width - 1] + "…" for text in texts]
    print_table([(*head, "answer"), *zip(*columns, texts, strict=True)])


def _chart(swept: SweptGrid) -> str:
    """Return the picture: over the first free name, one line for each choice of the others."""
    x, *others = swept.free
    series: dict[str, list[tuple[float, float]]] = {}
    for point in swept.data:
        name = ", ".join(f"{other} = {point.values[other]:g}" for other in others)
        series.setdefault(name, []).append((point.values[x], per_token(point)))
    lines = [Series(name, sorted(points)) for name, points in series.items()]
    return chart(swept.formula, x, "log-probability of the reference per token", lines)


def _messages(system: str | None, question: str) -> list[Mapping[str, object]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": question}]


def _values(texts: Sequence[str]) -> dict[str, list[float]]:
    """Read values of --set like NAME=0,0.5,1.

    Raises:
        BadParameter: a text has another form, or a name comes twice.
    """
    values: dict[str, list[float]] = {}
    for text in texts:
        name, equals, numbers = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"'{text}' is not NAME=VALUE,VALUE,...", param_hint="--set")
        if name in values:
            raise typer.BadParameter(f"gives '{name}' twice; give it once", param_hint="--set")
        try:
            values[name] = [float(number) for number in numbers.split(",")]
        except ValueError as error:
            raise typer.BadParameter(f"'{text}': {error}", param_hint="--set") from None
    return values
