"""The adapters of a request: the names that members may have, policies, and leases."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from types import TracebackType

from adapters import Generation, Lease, Policy, Registry
from composer.errors import ComposerError, UnknownModelError, quoted
from composer.fields import BASE
from composer.plan import Plan
from server.auth.keys import Key
from server.compose.incoming.request_fields import FIELD
from server.engine.residency import Loader
from server.errors import AdapterForbiddenError, AdapterUnavailableError


class MemberNames(Collection[str]):
    """The names that members may have: models and the adapters that are served at this moment.

    With a key, the names that it may use. Iteration leaves out adapters whose policy excludes the
    key.
    """

    def __init__(
        self,
        registry: Registry,
        models: Collection[str],
        retired: Collection[str] = (),
        key: Key | None = None,
    ) -> None:
        """`models`: the auxiliary models. `retired`: names that gates know, served or not."""
        self._registry = registry
        self._models = (BASE, *models)
        self._retired = retired
        self._key = key

    def __contains__(self, name: object) -> bool:
        known = name in self._models or name in self._registry or name in self._retired
        return known and (self._key is None or self._key.may_use(str(name)))

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys((*self._models, *self._registry, *self._retired))
        yield from (name for name in names if self._is_visible(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def visible_to(self, key: Key) -> MemberNames:
        """Return the names that a key may use."""
        return MemberNames(self._registry, self._models[1:], self._retired, key)

    def _is_visible(self, name: str) -> bool:
        if self._key is None:
            return True
        served = self._registry.get(name)
        allowed = served is None or served.policy.allows_key(self._key.secret)
        return allowed and self._key.may_use(name)


def check_alone(models: Iterable[str], key: Key, field: str) -> None:
    """Check that a key may see what each of these models says alone, as `field` asks.

    A composition that another key has stored may have members that the key may not use.

    Raises:
        AdapterForbiddenError: a model is not open to the key.
    """
    for model in models:
        if not key.may_use(model):
            raise AdapterForbiddenError(
                f"'{field}' shows what each member says alone, and {quoted(model)} is not open to "
                "this API key alone. Leave it out, or ask the operator for access.",
                param=field,
            )


PINS = "composer.pins"
"""Key of an ASGI scope under which a request of the server to itself has its `Pins`."""


class Pins:
    """The adapter generations of a request that computes many texts: all texts get the same ones.

    The generations stay loaded until the end of the context.
    """

    def __init__(self, registry: Registry) -> None:
        self.generations: dict[str, Generation] = {}
        self._registry = registry
        self._leases: list[Lease] = []

    def lease(self, aliases: Collection[str]) -> Lease:
        """Lease the generation that each alias stood for when it was leased here first.

        Raises `KeyError`: an alias is not served.
        """
        if new := set(aliases) - self.generations.keys():
            self._leases.append(self._registry.lease(new))
            self.generations |= self._leases[-1].generations
        return self._registry.lease_again({alias: self.generations[alias] for alias in aliases})

    def __enter__(self) -> Pins:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._leases:
            self._leases.pop().release()


class Access:
    """Checks the policies of adapters, and leases adapters to requests."""

    def __init__(self, registry: Registry, loader: Loader, models: Collection[str]) -> None:
        """`models`: the auxiliary models."""
        self.names = MemberNames(registry, models)
        self._registry = registry
        self._loader = loader
        self._models = (BASE, *models)

    def pins(self) -> Pins:
        """Return pins without generations."""
        return Pins(self._registry)

    async def lease(self, names: Collection[str], pins: Pins | None = None) -> Lease:
        """Lease the present generations of the adapters among `names`, and load them.

        The caller must release the lease. `pins` takes precedence over the present generations.

        Raises:
            AdapterUnavailableError: an adapter does not load.
        """
        aliases = {name for name in names if name in self._registry}
        lease = self._registry.lease(aliases) if pins is None else pins.lease(aliases)
        try:
            await self._loader.ensure(lease.generations.values())
        except ComposerError as error:
            lease.release()
            problem = self._loader.paths.hide(error.message)
            raise AdapterUnavailableError(
                f"an adapter of this request cannot be loaded: {problem}", param="model"
            ) from error
        except BaseException:
            lease.release()
            raise
        return lease

    def check_plan(self, plan: Plan, key: Key, retired: Collection[str] = ()) -> None:
        """Check that a key may use every member of a plan with its weight.

        Args:
            plan: the plan.
            key: of the request.
            retired: members that are not served any more, and that the plan drops.

        Raises:
            UnknownModelError: a member is not served any more.
            AdapterForbiddenError: the policy of an adapter forbids its use.
        """
        for member, weight in zip(plan.members, plan.weights, strict=True):
            if member.model in self._models or member.model in retired:
                self._check_key(member.model, key)
                continue
            policy = self.check(member.model, key)
            if not policy.compositions and not plan.is_plain:
                raise AdapterForbiddenError(
                    f"the adapter {quoted(member.model)} may not be used in compositions. "
                    f'Ask it alone: "model": "{member.model}".',
                    param=FIELD,
                )
            if not policy.negative and weight < 0:
                raise AdapterForbiddenError(
                    f"the adapter {quoted(member.model)} has the weight {weight:g} in this "
                    "composition, and may not have a negative one. Give it a positive weight.",
                    param=FIELD,
                )

    def composes(self, model: str, key: Key) -> bool:
        """Return whether a key may use a model that is served as a member of compositions."""
        served = self._registry.get(model)
        policy = Policy() if served is None else served.policy
        return policy.compositions and policy.allows_key(key.secret) and key.may_use(model)

    def check(self, alias: str, key: Key) -> Policy:
        """Return the policy of an adapter that a key may use. Raise as `check_plan` otherwise."""
        served = self._registry.get(alias)
        if served is None:
            raise UnknownModelError(alias, self.names.visible_to(key), param=FIELD)
        self._check_key(alias, key)
        if not served.policy.allows_key(key.secret):
            raise AdapterForbiddenError(
                f"the adapter {quoted(alias)} is not open to this API key. Ask its operator.",
                param="model",
            )
        return served.policy

    def _check_key(self, name: str, key: Key) -> None:
        if not key.may_use(name):
            raise UnknownModelError(name, self.names.visible_to(key), param=FIELD)
