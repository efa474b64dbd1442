"""Compositions stored by requests: who may store what, under which names and conditions."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from pydantic import JsonValue

from adapters import Compositions, CompositionVersion, NameTakenError
from composer.errors import quoted
from server.auth.keys import Key, Role, key_of
from server.compose.catalogue import Catalogue
from server.compose.routing.auto import AUTO
from server.engine.port import Engine
from server.publishing.store_threads import StoreThreads
from server.routes.preconditions import actor_of, expected_version


@dataclass(frozen=True, slots=True)
class CompositionWriter:
    """Stores compositions of requests. `limit`: the largest number of compositions of a key."""

    engine: Engine
    compositions: Compositions
    catalogue: Catalogue
    threads: StoreThreads
    limit: int

    def check_name(self, name: str) -> None:
        """Refuse what stands for something else on this server; the store knows the rest."""
        names = self.catalogue.member_names
        if name == AUTO or name in self.engine.base_names or name in names:
            raise NameTakenError(
                f"{quoted(name)} already names the base model, an adapter or the router. "
                "Choose another.",
                param="name",
            )

    async def check(self, name: str, request: Request) -> None:
        """Check whether a request may store something under a name now.

        Raises:
            ComposerError: it may not.
        """
        self.check_name(name)
        key, expected = key_of(request.scope), expected_version(request)
        await self.threads.changes.admit(
            lambda: self.compositions.check_put(
                name,
                key=changing(key),
                owner=key.name,
                expected=expected,
                limit=self.limit,
            )
        )

    async def put(self, name: str, content: JsonValue, request: Request) -> CompositionVersion:
        """Store a composition, or replace one, with the conditions in the headers of a request.

        Raises:
            ComposerError: the composition cannot be computed or stored, or not by this key.
        """
        self.check_name(name)
        key, expected = key_of(request.scope), expected_version(request)
        self.catalogue.parse(content, key=key)
        return await self.threads.changes.admit(
            lambda: self.compositions.put(
                name,
                content,
                key=changing(key),
                owner=key.name,
                actor=actor_of(request),
                expected=expected,
                limit=self.limit,
            )
        )


def changing(key: Key) -> str | None:
    """Return the name of the key that must own a composition to change it; None for any."""
    return None if key.may(Role.ADMIN) else key.name
