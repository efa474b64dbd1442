"""Work on this machine without a server: its errors, its progress, its reports."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from json import dumps
from typing import ParamSpec, Protocol

import typer

P = ParamSpec("P")

REFUSED, USAGE, FAILED = 1, 2, 4

INTERVAL_S = 5.0
"""Time between two lines of a log, whether or not a step has ended; shorter work prints none."""

Step = Callable[[int, int, str], None]
"""Called with the steps done, the steps in total, and the name of the last step."""


class CommandReport(Protocol):
    """Result of a command."""

    @property
    def warnings(self) -> Sequence[str]: ...

    def to_json(self) -> Mapping[str, object]: ...


def works_here(run: Callable[P, None]) -> Callable[P, None]:
    """Make a command of `run`, with one line and an exit code for each of its errors."""

    @wraps(run)
    def command(*args: P.args, **values: P.kwargs) -> None:
        from adapters.errors import AdapterStoreError
        from composer.errors import ComposerError

        try:
            run(*args, **values)
        except ModuleNotFoundError as error:
            raise needs_extra(run.__name__, error) from None
        except ComposerError as error:
            code = FAILED if isinstance(error, AdapterStoreError) else REFUSED
            raise failure(code, error.message) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise failure(FAILED, str(error)) from error

    return command


def needs_extra(command: str, error: ModuleNotFoundError | None = None) -> typer.TyperException:
    """Return the error for a command of which a package is not installed."""
    why = f" ({error})" if error else ""
    return failure(
        USAGE,
        f"{command} needs more than the client{why}: pip install 'composer-serve[cpu]', or [cuda]",
    )


def failure(code: int, message: str) -> typer.TyperException:
    """Return an error that ends the command line with this exit code."""
    error = typer.TyperException(message)
    error.exit_code = code
    return error


def print_report(report: CommandReport, *, json: bool) -> bool:
    """Print a report as JSON, or only its warnings; return whether the JSON was printed."""
    if json:
        print(dumps(report.to_json()))
        return True
    for warning in report.warnings:
        print(f"composer: warning: {warning}", file=sys.stderr)
    return False


@contextmanager
def show_progress() -> Iterator[Step]:
    """Show the progress of the work in the block on standard error."""
    if not sys.stderr.isatty():
        with _log_lines() as step:
            yield step
        return
    from rich.console import Console
    from rich.progress import Progress

    # What the block prints goes to standard output, not where the bar is.
    console = Console(stderr=True)
    with Progress(console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, name: progress.update(
            task, completed=done, total=total, description=name
        )


@contextmanager
def _log_lines() -> Iterator[Step]:
    began = time.monotonic()
    ended = threading.Event()
    latest = "starting"

    def step(done: int, total: int, name: str) -> None:
        nonlocal latest
        share = f"{done / total:.0%}" if total else "?"
        latest = f"{share}, {done} of {total}: {name}"

    def report() -> None:
        while not ended.wait(INTERVAL_S):
            seconds = time.monotonic() - began
            print(f"composer: {latest} ({seconds:.0f} s)", file=sys.stderr, flush=True)

    reporter = threading.Thread(target=report, name="progress", daemon=True)
    reporter.start()
    try:
        yield step
    finally:
        ended.set()
        reporter.join()
