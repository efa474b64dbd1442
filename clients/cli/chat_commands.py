"""`composer chat` and `composer models`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from clients.cli.connection import asks_server, connect
from clients.cli.scoring.explanation_table import joined, print_explanation
from clients.cli.shared_options import (
    Assignments,
    CompositionJson,
    Formula,
    RecipeName,
    assignments,
    at_most_one,
    composition_of,
)
from clients.cli.tables import Json, JsonLines, print_lines, print_table, wants_lines

if TYPE_CHECKING:
    from clients.call import GenerationCall
    from clients.client import Client
    from clients.responses import ChatChunk, ChatCompletion, CompositionInfo

    Messages = list[Mapping[str, object]]
    Ask = Callable[[Messages], GenerationCall[ChatCompletion, ChatChunk]]


@dataclass(frozen=True, slots=True)
class _Output:
    """What to print of an answer, and how."""

    stream: bool
    json: bool
    routing: bool
    compare: bool
    explain: bool


@asks_server(connect)
def chat(
    client: Client,
    question: Annotated[
        str | None, Argument(metavar="QUESTION", help="'-' reads it from standard input.")
    ] = None,
    model: Annotated[
        str, Option(help="base, an adapter, a stored composition, a formula or auto.")
    ] = "base",
    formula: Formula = None,
    recipe: RecipeName = None,
    composition: CompositionJson = None,
    set_: Assignments = None,
    system: Annotated[str | None, Option(help="The system message.")] = None,
    routing: Annotated[
        bool, Option("--routing", help="Show the experts' weights on standard error.")
    ] = False,
    compare: Annotated[
        bool, Option("--compare", help="Print what each expert answers alone, too.")
    ] = False,
    explain: Annotated[
        bool, Option("--explain", help="Print what every member thought of each token, too.")
    ] = False,
    stream: Annotated[
        bool, Option("--stream", help="Print the answer while it is generated.")
    ] = False,
    json: Json = False,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop: Annotated[list[str] | None, Option(help="End of the answer. Repeatable.")] = None,
    extra: Annotated[
        list[str] | None,
        Option(
            metavar="FIELD=VALUE",
            help="Another field of the request; the value is JSON, else text. Repeatable.",
        ),
    ] = None,
) -> None:
    """Ask the question that is given, or hold a conversation without one."""
    from clients import calls

    at_most_one({"--stream": stream, "--compare": compare})
    ask = partial(
        calls.chat,
        model=model,
        composition=composition_of(formula, recipe, composition, set_),
        compare=compare or None,
        explain=explain or None,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=stop,
        extra=assignments("--extra", extra),
    )
    messages: Messages = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    if question is None and sys.stdin.isatty():
        for option, present in (("--json", json), ("--compare", compare), ("--explain", explain)):
            if present:
                raise typer.BadParameter("needs a question", param_hint=option)
        _converse(client, ask, messages, _Output(True, False, routing, False, False))
        return
    if question in (None, "-"):
        question = sys.stdin.read().strip()
    if not question:
        raise typer.BadParameter("the question is empty", param_hint="QUESTION")
    messages.append({"role": "user", "content": question})
    _answer(client, ask(messages), _Output(stream, json, routing, compare, explain))


@asks_server(connect)
def models(client: Client, json: JsonLines = None) -> None:
    """List the base model, the adapters and the stored compositions of the server."""
    served = client.models()
    if wants_lines(json):
        print_lines(served)
    else:
        print_table([(m.id, f"from {m.parent}" if m.parent else "") for m in served])


def _converse(client: Client, ask: Ask, messages: Messages, output: _Output) -> None:
    print("Ctrl-D ends the conversation.", file=sys.stderr)
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            print()
            return
        if not question:
            continue
        messages.append({"role": "user", "content": question})
        text = _answer(client, ask(messages), output)
        messages.append({"role": "assistant", "content": text})


def _answer(
    client: Client, call: GenerationCall[ChatCompletion, ChatChunk], output: _Output
) -> str:
    """Print the answer and return its text."""
    if not output.stream:
        answer = client.send(call)
        print(answer.model_dump_json(exclude_unset=True) if output.json else answer.text)
        if output.compare and not output.json:
            _print_comparison(answer)
        if output.explain and not output.json:
            print_explanation(answer.explanation)
        if output.routing:
            _print_routing(answer.composition)
        return answer.text
    texts, composition, parts = [], None, []
    for chunk in client.stream(call):
        texts.append(chunk.text)
        composition = chunk.composition or composition
        if chunk.explanation is not None:
            parts.append(chunk.explanation)
        if output.json:
            print(chunk.model_dump_json(exclude_unset=True), flush=True)
        else:
            print(chunk.text, end="", flush=True)
    if not output.json:
        print()
        if output.explain:
            print_explanation(joined(parts))
    if output.routing:
        _print_routing(composition)
    return "".join(texts)


def _print_comparison(answer: ChatCompletion) -> None:
    for name, alone in (answer.comparison or {}).items():
        text = alone.text if alone.error is None else f"error: {alone.error.get('message')}"
        print(f"{name} alone: {text}")


def _print_routing(composition: CompositionInfo | None) -> None:
    """Print the experts' weights, the largest first, on standard error."""
    sys.stdout.flush()  # the answer comes before its weights
    routing = composition.routing if composition is not None else None
    if routing is None:
        print("composer: nothing was routed", file=sys.stderr)
        return
    ranked = sorted(routing.weights.items(), key=lambda pair: -pair[1])
    weights = ", ".join(f"{name} {weight:.3f}" for name, weight in ranked)
    print(f"composer: weights: {weights}", file=sys.stderr)
    if others := routing.familiarity.keys() - routing.weights.keys():
        nearest = max(others, key=lambda name: routing.familiarity[name])
        line = f"nearest adapter: {nearest}, familiarity {routing.familiarity[nearest]:.2f}"
        if routing.none_below is not None:  # older servers do not send it
            line += f"; below {routing.none_below:g} the base answers"
        print(f"composer: {line}", file=sys.stderr)
    for name in routing.missing:
        print(f"composer: the expert {name} is gone", file=sys.stderr)
