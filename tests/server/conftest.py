"""The command line against the shared server (`tests.server.shared_server`)."""

from __future__ import annotations

from tests.server.command_line import composer

__all__ = ["composer"]
