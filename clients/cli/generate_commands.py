"""What the commands of `composer` do; each takes the client and the parsed arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from clients import calls
from clients.call import GenerationCall
from clients.cli.arguments import CommandLineError, composition_of
from clients.cli.tables import print_table
from clients.client import Client
from clients.responses import ChatChunk, ChatCompletion, CompositionInfo

Messages = list[Mapping[str, object]]


def chat(client: Client, arguments: argparse.Namespace) -> None:
    """One answer for a question; without one, a conversation (terminal) or the input's text."""
    messages: Messages = []
    if arguments.system is not None:
        messages.append({"role": "system", "content": arguments.system})
    question = arguments.question
    if question is None and sys.stdin.isatty():
        _converse(client, arguments, messages)
        return
    if question in (None, "-"):
        question = sys.stdin.read().strip()
    if not question:
        raise CommandLineError("the question is empty")
    messages.append({"role": "user", "content": question})
    _answer(client, arguments, messages)


def _converse(client: Client, arguments: argparse.Namespace, messages: Messages) -> None:
    for option in ("json", "compare"):
        if getattr(arguments, option):
            raise CommandLineError(f"--{option} needs a question")
    arguments.stream = True
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
        text = _answer(client, arguments, messages)
        messages.append({"role": "assistant", "content": text})


def _answer(client: Client, arguments: argparse.Namespace, messages: Messages) -> str:
    """Print the answer and return its text."""
    if arguments.compare and arguments.stream:
        raise CommandLineError("--compare does not go with --stream")
    call = _chat_call(arguments, messages)
    if not arguments.stream:
        answer = client.send(call)
        print(answer.model_dump_json(exclude_unset=True) if arguments.json else answer.text)
        if arguments.compare and not arguments.json:
            _tell_comparison(answer)
        if arguments.routing:
            _tell_routing(answer.composition)
        return answer.text
    parts, composition = [], None
    for chunk in client.stream(call):
        parts.append(chunk.text)
        composition = chunk.composition or composition
        if arguments.json:
            print(chunk.model_dump_json(exclude_unset=True), flush=True)
        else:
            print(chunk.text, end="", flush=True)
    if not arguments.json:
        print()
    if arguments.routing:
        _tell_routing(composition)
    return "".join(parts)


def _tell_comparison(answer: ChatCompletion) -> None:
    for name, alone in (answer.comparison or {}).items():
        said = alone.text if alone.error is None else f"error: {alone.error.get('message')}"
        print(f"{name} alone: {said}")


def _tell_routing(composition: CompositionInfo | None) -> None:
    """The experts by their weight, the largest first."""
    sys.stdout.flush()  # what comes first, is read first
    routing = composition.routing if composition is not None else None
    if routing is None:
        print("composer: nothing was routed", file=sys.stderr)
        return
    ranked = sorted(routing.weights.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{name} {weight:.3f}" for name, weight in ranked)
    print(f"composer: weights: {shown}", file=sys.stderr)
    for name in routing.missing:
        print(f"composer: the expert {name} is gone", file=sys.stderr)


def _chat_call(
    arguments: argparse.Namespace, messages: Messages
) -> GenerationCall[ChatCompletion, ChatChunk]:
    return calls.chat(
        messages,
        model=arguments.model,
        composition=composition_of(arguments),
        compare=arguments.compare or None,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        seed=arguments.seed,
        stop=arguments.stop,
        extra=dict(arguments.extra),
    )


def models(client: Client, arguments: argparse.Namespace) -> None:
    print_table(
        [(model.id, f"from {model.parent}" if model.parent else "") for model in client.models()]
    )
