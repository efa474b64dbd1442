"""A typed client for the server, synchronous and asynchronous, and the command line `composer`."""

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
