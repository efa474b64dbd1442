"""A typed client for the server, synchronous and asynchronous, and the command line `composer`."""

from clients.client import AsyncClient, Client
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
from clients.settings import Settings

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadRequest",
    "Client",
    "ClientError",
    "CompositionLost",
    "Conflict",
    "ConnectionFailed",
    "Forbidden",
    "InvalidResponse",
    "NotFound",
    "RateLimited",
    "ServerError",
    "Settings",
    "StreamError",
]
