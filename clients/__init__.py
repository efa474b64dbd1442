"""A typed client for the server, synchronous and asynchronous, and the command line `composer`."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clients.client import AsyncClient, Client
    from clients.client_settings import ClientSettings
    from clients.errors import (
        ApiError,
        BadRequest,
        ClientError,
        CompositionLost,
        Conflict,
        ConnectionFailed,
        Forbidden,
        InvalidResponse,
        NotFound,
        RateLimited,
        ServerError,
        StreamError,
    )

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadRequest",
    "Client",
    "ClientError",
    "ClientSettings",
    "CompositionLost",
    "Conflict",
    "ConnectionFailed",
    "Forbidden",
    "InvalidResponse",
    "NotFound",
    "RateLimited",
    "ServerError",
    "StreamError",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use: httpx would double the start-up time of `composer`."""
    if name in __all__:
        for module in map(import_module, ("clients.errors", "clients.client")):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'clients' has no attribute '{name}'")
