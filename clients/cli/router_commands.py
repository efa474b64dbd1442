"""`composer router`: gates, trained on this machine without a server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperCommand

from clients.cli.local_work import show_progress, works_here

router = typer.Typer(help="Routers that are trained: gates.", no_args_is_help=False)

_LISTS = ("--adapters", "--examples")


class _ListOptions(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read `--adapters A B` as `--adapters A --adapters B`, as the server does."""
        words: list[str] = []
        option = None
        for word in args:
            if word.startswith("-"):
                option = word if word in _LISTS else None
            elif option is not None and words[-1] != option:
                words.append(option)
            words.append(word)
        return super().parse_args(ctx, words)


@router.callback()
def _group() -> None:
    pass


@router.command(cls=_ListOptions)
@works_here
def train(
    base: Annotated[Path, Option(metavar="PATH", help="The folder of the model.")],
    adapters: Annotated[
        list[str],
        Option(
            metavar="NAME=PATH ...",
            help="The folders of the adapters, by the names that they have on the server.",
        ),
    ],
    examples: Annotated[
        list[str],
        Option(
            metavar="NAME=FILE ...",
            help="Examples of each; 'base' names those that no adapter should answer.",
        ),
    ],
    output: Annotated[Path, Option(metavar="FILE", help="A new safetensors file.")],
    most: Annotated[int, Option(help="Examples of each adapter, at most.")] = 400,
    longest: Annotated[int, Option(help="Tokens of an example, at most.")] = 1024,
) -> None:
    """Train a gate: which adapter computes the next token.

    Fits a linear classifier to the last hidden states of a base model.
    Each line of a file of examples is a text, or JSON with 'prompt' and
    'answer', or with 'messages'.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    folders, files = _paths("--adapters", adapters), _paths("--examples", examples)
    with show_progress() as step:  # the imports below take seconds
        from adapters.inspection.inspect import inspect
        from composer.gate_training.command import train as run

        digests = {name: inspect(path, name).digest for name, path in folders.items()}
        run(base, folders, digests, files, output, step, max_examples=most, max_tokens=longest)


def _paths(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """Read values of `option` like NAME=PATH.

    Raises:
        BadParameter: a text has another form, or a name comes twice.
    """
    paths: dict[str, Path] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not (name and separator and path):
            raise typer.BadParameter(f"'{text}' is not NAME=PATH", param_hint=option)
        if name in paths:
            raise typer.BadParameter(f"gives '{name}' twice; give it once", param_hint=option)
        paths[name] = Path(path)
    return paths
