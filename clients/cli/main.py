"""The command line `composer`.

Exit codes: 0 success; 1 refused, by the server (4xx) or for what is in files, or a fit that has not
converged; 2 wrong command line, or a file to send cannot be read; 3 the server cannot be reached; 4
the server failed (5xx, or a broken stream), or a disk, also for a result that cannot be written;
130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated

import typer
from typer import Option
from typer.core import TyperGroup
from typer.main import get_command

from clients import errors
from clients.cli import chat_commands
from clients.cli.adapter_commands import adapters
from clients.cli.baking.bake_command import bake
from clients.cli.composition_commands import compositions
from clients.cli.connection import ApiKey, BaseUrl
from clients.cli.exploring.explore_command import explore
from clients.cli.local_work import FAILED, REFUSED, USAGE, needs_extra
from clients.cli.recipe_commands import recipes
from clients.cli.router_commands import router
from clients.cli.scoring.distil_command import distil
from clients.cli.scoring.fit_command import fit
from clients.cli.scoring.score_command import score
from clients.cli.scoring.sweep_command import sweep

UNREACHABLE = 3


class _Composer(TyperGroup):
    def invoke(self, ctx: typer.Context) -> None:  # type: ignore[override]
        """Run the command; a reader that leaves, as in `composer … | head`, is not an error."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(cls=_Composer, help="Serve composed language models, and ask them.")


def _print_version(wanted: bool) -> None:
    if wanted:
        from composer.release import VERSION

        print(f"composer {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keep the options for the commands; see `connection.connect`."""


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
def serve(ctx: typer.Context) -> None:
    """Start the server, with its options and all of vLLM's; 'composer serve --help' lists them."""
    if find_spec("vllm") is None or find_spec("fastapi") is None:
        raise needs_extra("serve")
    from server.__main__ import main as start

    raise typer.Exit(start(ctx.args))


app.command()(chat_commands.chat)
app.command()(chat_commands.models)
app.command()(score)
app.command()(fit)
app.command()(sweep)
app.command()(distil)
app.command()(bake)
app.command()(explore)
app.command()(recipes)
app.add_typer(compositions, name="compositions")
app.add_typer(adapters, name="adapters")
app.add_typer(router, name="router")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; print an error on stderr."""
    words = None if argv is None else list(argv)
    try:
        code: int | None = get_command(app).main(words, prog_name="composer", standalone_mode=False)
    except typer.TyperException as error:
        message = " ".join(error.format_message().split())
        message = message.removeprefix("Invalid value: ").rstrip(".")
        if (ctx := getattr(error, "ctx", None)) is not None:
            message += f"; see '{ctx.command_path} --help'"
        return _fail(error.exit_code, message)
    except errors.ClientError as error:
        return _fail(exit_code(error), error.message)
    except (ValueError, OSError) as error:
        return _fail(USAGE, str(error))
    return code or 0


def exit_code(error: errors.ClientError) -> int:
    """Return the exit code of a call that failed."""
    if isinstance(error, errors.ConnectionFailed):
        return UNREACHABLE
    if isinstance(error, errors.ApiError) and not isinstance(
        error, errors.ServerError | errors.StreamError
    ):
        return REFUSED
    return FAILED


def _fail(code: int, message: str) -> int:
    # Lines and their indent stay: the caret of a formula's error stands below its position.
    print(f"composer: {message.strip()}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
