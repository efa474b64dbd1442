"""The address of the server, checked before vLLM takes half a minute to be imported."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

_ELSEWHERE = ("--uds", "--config")
"""Options of vLLM that replace the address, or may."""


def check_address(host: str, port: int, vllm_flags: Sequence[str]) -> None:
    """Check that a socket can be bound to the address; `server.engine.vllm.launch` binds it.

    Raises:
        ValueError: it cannot be; the message names the address and the remedy.
    """
    if not {flag.partition("=")[0] for flag in vllm_flags}.isdisjoint(_ELSEWHERE):
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM binds
        try:
            probe.bind((host, port))
        except OSError as error:
            raise cannot_listen(f"{host}:{port}", error) from error


def cannot_listen(where: str, error: OSError) -> ValueError:
    """Return the error for an address that cannot be bound: a host and port, or a Unix socket."""
    remedy = "Try another port: --port of the server, PORT= of make."
    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
        remedy = "Try another address: --host of the server, HOST= of make."
    return ValueError(f"cannot listen on {where}: {error.strerror}. {remedy}")
