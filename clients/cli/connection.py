"""Commands that ask a server: where it is, with which key, and the client that asks."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer
from typer import Option

if TYPE_CHECKING:
    from clients.client import Client
    from clients.client_settings import Timeouts

P = ParamSpec("P")

_option: Any = partial(Option, rich_help_panel="Server")
BaseUrl = Annotated[
    str | None,
    _option(
        metavar="URL",
        help="The server's address, with or without /v1. Default: $COMPOSER_BASE_URL, else "
        "http://127.0.0.1:8000/v1.",
    ),
]
ApiKey = Annotated[str | None, _option(metavar="KEY", help="Default: $COMPOSER_API_KEY.")]
_ADMIN_KEY_HELP = "A key that may publish. Default: $COMPOSER_ADMIN_KEY, else $COMPOSER_API_KEY."
AdminKey = Annotated[str | None, _option(metavar="KEY", help=_ADMIN_KEY_HELP)]
Timeout = Annotated[float, _option(metavar="SECONDS", help="How long to wait for the answer.")]


def server_options(base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Accept the options of the connection before the name of a command."""


def connect(ctx: typer.Context, base_url: BaseUrl = None, api_key: ApiKey = None) -> Client:
    """Return a client for the options of a command and its groups, and the environment."""
    from clients.client import Client

    return Client(_nearest(ctx, "base_url", base_url), api_key=_nearest(ctx, "api_key", api_key))


def connect_patiently(
    ctx: typer.Context,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    timeout: Timeout = 3600.0,
) -> Client:
    """Return a client for a request that the server may need long for.

    Raises:
        BadParameter: the timeout is not positive.
    """
    from clients.client import Client

    key = _nearest(ctx, "api_key", api_key)
    return Client(_nearest(ctx, "base_url", base_url), api_key=key, timeouts=_timeouts(timeout))


def connect_as_administrator(
    ctx: typer.Context,
    base_url: BaseUrl = None,
    admin_key: AdminKey = None,
    timeout: Timeout = 300.0,
) -> Client:
    """Return a client with a key that may publish.

    Raises:
        BadParameter: there is no key, or the timeout is not positive.
    """
    from clients.client import Client
    from clients.client_settings import ADMIN_KEY_VARIABLE, API_KEY_VARIABLE

    timeouts = _timeouts(timeout)
    key = admin_key or os.environ.get(ADMIN_KEY_VARIABLE) or _nearest(ctx, "api_key", None)
    key = key or os.environ.get(API_KEY_VARIABLE)
    if not key:
        raise typer.BadParameter(
            "this command needs a key that may publish: give --admin-key or set "
            f"{ADMIN_KEY_VARIABLE} or {API_KEY_VARIABLE}"
        )
    return Client(_nearest(ctx, "base_url", base_url), api_key=key, timeouts=timeouts)


def asks_server(
    connect: Callable[..., Client],
) -> Callable[[Callable[Concatenate[Client, P], None]], Callable[..., None]]:
    """Return a decorator that makes a command of a function of a client and options.

    The command also takes the options of `connect`, so that they may stand after its name.
    """

    def decorate(run: Callable[Concatenate[Client, P], None]) -> Callable[..., None]:
        names = {"Client": object}  # httpx is imported when a command runs
        signature = inspect.signature(run, locals=names, eval_str=True)
        options = inspect.signature(connect, locals=names, eval_str=True).parameters

        def command(**values: Any) -> None:
            with connect(**{name: values.pop(name) for name in options}) as client:
                run(client, **values)  # type: ignore[call-arg]

        described: Any = command
        described.__name__, described.__doc__ = run.__name__, run.__doc__
        _, *parameters = (*signature.parameters.values(), *options.values())
        keyword = inspect.Parameter.KEYWORD_ONLY
        described.__signature__ = signature.replace(
            parameters=[parameter.replace(kind=keyword) for parameter in parameters]
        )
        return command

    return decorate


def _timeouts(read_s: float) -> Timeouts:
    from clients.client_settings import Timeouts

    if not read_s > 0:
        raise typer.BadParameter(
            f"{read_s:g} is not above 0; give a number of seconds", param_hint="--timeout"
        )
    return Timeouts(read_s=read_s)


def _nearest(ctx: typer.Context, name: str, value: str | None) -> str | None:
    """Return the value, else that of the innermost group that has one for the option."""
    parent: Any = ctx.parent
    while value is None and parent is not None:
        value, parent = parent.params.get(name), parent.parent
    return value
