"""Which generation an alias stands for in this process, and which generations are still in use.

A request takes a lease on the generations that it computes with and keeps them to its end, even if
an alias changes meanwhile. A generation without an alias and without a lease is retired.

Use it from one thread only: the event loop of the server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from adapters.generation import Generation, engine_name
from adapters.store.policy import Policy
from adapters.store.profile import EMPTY_PROFILE, Profile


@dataclass(frozen=True, slots=True)
class Served:
    """What an alias stands for: a generation, with the policy and profile of its version."""

    generation: Generation
    policy: Policy
    version: int
    profile: Profile = EMPTY_PROFILE


class Lease:
    """Generations that stay loaded until `release`; `generations` maps aliases to them."""

    def __init__(self, registry: Registry, generations: Mapping[str, Generation]) -> None:
        self.generations = generations
        self._registry: Registry | None = registry

    def release(self) -> None:
        """Release the generations. Further calls have no effect."""
        registry, self._registry = self._registry, None
        if registry is not None:
            for generation in self.generations.values():
                registry._release(generation)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Registry:
    """Aliases, generations and their users."""

    def __init__(self, retire: Callable[[Generation], None]) -> None:
        """`retire` is called once for every generation without an alias and without a lease."""
        self._retire = retire
        self._served: dict[str, Served] = {}
        self._versions: dict[str, int] = {}  # latest applied version, removals included
        self._live: dict[str, Generation] = {}  # by engine name: current or leased
        self._users: Counter[str] = Counter()  # leases by engine name
        # One number per name for the life of the process: the engine identifies the adapters of a
        # batch by either.
        self._numbers: dict[str, int] = {}
        self.changes = 0
        """How often what an alias stands for has changed, so that callers know when to look."""

    # ---- what is served

    def get(self, alias: str) -> Served | None:
        """Return what the alias stands for; None if it is not served."""
        return self._served.get(alias)

    def names(self) -> tuple[str, ...]:
        """Return all aliases, sorted."""
        return tuple(sorted(self._served))

    def __iter__(self) -> Iterator[str]:
        return iter(self._served)

    def __contains__(self, alias: object) -> bool:
        return alias in self._served

    def __len__(self) -> int:
        return len(self._served)

    @property
    def live(self) -> tuple[Generation, ...]:
        """Return the generations with an alias or a lease."""
        return tuple(self._live.values())

    @property
    def leases(self) -> int:
        """Return the number of leased generations, counted once per request."""
        return sum(self._users.values())

    def users(self, generation: Generation) -> int:
        """Return the number of leases of one generation."""
        return self._users[generation.engine_name]

    def is_current(self, generation: Generation) -> bool:
        """Return whether an alias stands for a generation: new requests get it."""
        served = self._served.get(generation.alias)
        return served is not None and served.generation == generation

    # ---- changes

    def prepare(self, alias: str, digest: str, path: Path, rank: int) -> Lease:
        """Lease a generation before the alias stands for it, so that it can be loaded.

        While a generation is in use, the same content under the same alias is that generation.
        """
        name = engine_name(alias, digest)
        generation = self._live.get(name)
        if generation is None:
            number = self._numbers.setdefault(name, len(self._numbers) + 1)
            generation = self._live[name] = Generation(alias, digest, path, rank, number)
        return self._lease({alias: generation})

    def is_live(self, generation: Generation) -> bool:
        """Return whether a generation has an alias or a lease."""
        return generation.engine_name in self._live

    def point(
        self, generation: Generation, policy: Policy, version: int, profile: Profile = EMPTY_PROFILE
    ) -> bool:
        """Let the alias stand for a leased generation; new requests get it.

        Return False and change nothing if a later version of the alias was applied already.
        """
        alias = generation.alias
        if version <= self._versions.get(alias, 0):
            return False
        self._versions[alias] = version
        before = self._served.get(alias)
        self._served[alias] = Served(generation, policy, version, profile)
        self.changes += 1
        if before is not None:
            self._let_go(before.generation)
        return True

    def drop(self, alias: str, version: int) -> bool:
        """Stop serving the alias; return False if a later version of it was applied already."""
        if version <= self._versions.get(alias, 0):
            return False
        self._versions[alias] = version
        before = self._served.pop(alias, None)
        self.changes += 1
        if before is not None:
            self._let_go(before.generation)
        return True

    # ---- leases

    def lease(self, aliases: Iterable[str]) -> Lease:
        """Lease what the aliases stand for now. Raises `KeyError`: an alias is not served."""
        return self._lease({alias: self._served[alias].generation for alias in aliases})

    def lease_again(self, generations: Mapping[str, Generation]) -> Lease:
        """Lease generations that a lease holds already, whatever their aliases stand for now."""
        return self._lease(generations)

    def _lease(self, generations: Mapping[str, Generation]) -> Lease:
        self._users.update(generation.engine_name for generation in generations.values())
        return Lease(self, generations)

    def _release(self, generation: Generation) -> None:
        self._users[generation.engine_name] -= 1
        self._let_go(generation)

    def _let_go(self, generation: Generation) -> None:
        name = generation.engine_name
        if self._users[name] > 0 or self.is_current(generation):
            return
        del self._users[name]
        del self._live[name]
        self._retire(generation)
