"""`composer distil`: what a composition answers and thinks, to train one adapter on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer import Argument, Option

from clients.cli.connection import asks_server, connect_patiently
from clients.cli.local_work import show_progress
from clients.cli.scoring.distilled_answer import distil as distil_answer
from clients.cli.scoring.item_file import read_prompts
from clients.cli.scoring.resumed_output import Line, Output, digests, opened, resume
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

S = TypeVar("S")
T = TypeVar("T")


@asks_server(connect_patiently)
def distil(
    client: Client,
    file: Annotated[
        str,
        Argument(
            metavar="PROMPTS",
            help="JSON lines, each with a prompt or messages; '-' reads standard input.",
        ),
    ],
    model: Annotated[
        str, Option(help="base, an adapter, a stored composition or a formula.")
    ] = "base",
    formula: Formula = None,
    recipe: RecipeName = None,
    composition: CompositionJson = None,
    set_: Assignments = None,
    top_k: Annotated[
        int, Option(min=1, help="Likeliest tokens to write of each place; a server allows 20.")
    ] = 20,
    samples: Annotated[int, Option(min=1, help="Answers to each prompt.")] = 1,
    max_tokens: Annotated[int, Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float | None, Option(help="Default: the server's.")] = None,
    seed: Annotated[
        int | None, Option(help="Of the first answer to each prompt; the next has the next.")
    ] = None,
    concurrency: Annotated[int, Option(min=1, help="Requests at the same time.")] = 8,
    output: Output = None,
) -> None:
    """Write answers of a composition with the likeliest tokens at every place, as JSON lines."""
    at_most_one({
        **{"--model": None if model == "base" else model, "--formula": formula},
        **{"--recipe": recipe, "--composition": composition},
    })  # fmt: skip
    if samples > 1 and temperature == 0:
        raise typer.BadParameter(
            "are all the same at --temperature 0; sample at another one", param_hint="--samples"
        )
    asked: dict[str, Any] = {
        "model": model,
        "composition": composition_of(formula, recipe, composition, set_),
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    work: list[Line] = [
        {"index": index, "sample": sample, **beginning}
        for index, beginning in enumerate(read_prompts(file))
        for sample in range(samples)
    ]
    marks = digests(work, {**asked, "seed": seed, "top_k": top_k})
    done = 0 if output is None else len(resume(output, marks))
    ask = partial(_line, client, top_k, seed, asked)
    with (
        opened(output) as out,
        show_progress() as step,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        step(done, len(work), "distil")
        with closing(in_order(pool, ask, work[done:], ahead=2 * concurrency)) as lines:
            for count, (line, mark) in enumerate(zip(lines, marks[done:], strict=True), done + 1):
                print(dumps(line | {"digest": mark}), file=out, flush=True)
                step(count, len(work), "distil")


def _line(client: Client, top_k: int, seed: int | None, asked: dict[str, Any], one: Line) -> Line:
    """Return the line of an answer: what was asked, and the fields of `distil_answer`."""
    from clients.errors import ApiError

    options = {**asked, "seed": None if seed is None else seed + one["sample"]}
    try:
        return one | distil_answer(client, one, top_k, options)
    except ApiError as error:
        error.message = f"prompt {one['index']}: {error.message}"
        raise


def in_order(
    pool: ThreadPoolExecutor, call: Callable[[S], T], items: Iterable[S], *, ahead: int
) -> Generator[T, None, None]:
    """Yield the result for each item in their order, with `ahead` of them begun at most.

    Closing the generator, or an error of `call`, drops the items that no thread has begun.
    """
    begun: deque[Future[T]] = deque()
    try:
        for item in items:
            if len(begun) >= ahead:
                yield begun.popleft().result()
            begun.append(pool.submit(call, item))
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
