"""The adapters of a request: what members may be called, who may use them, and their leases."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from adapters import Lease, Policy, Registry
from composer.errors import ComposerError, UnknownModelError, quoted
from composer.fields import BASE
from composer.plan import Plan
from server.auth.keys import Key
from server.engine.residency import Loader
from server.errors import AdapterForbiddenError, AdapterUnavailableError

FIELD = "composition"
"""The field of the request, which vLLM never sees."""


class MemberNames(Collection[str]):
    """What members may be called: the models, and the adapters as they are at any moment.

    With a key, those that it may use; in lists, adapters whose policy is against it are left out.
    """

    def __init__(
        self,
        registry: Registry,
        models: Collection[str],
        more: Collection[str] = (),
        key: Key | None = None,
    ) -> None:
        self._registry = registry
        self._models = (BASE, *models)
        self._more = more
        self._key = key

    def __contains__(self, name: object) -> bool:
        known = name in self._models or name in self._registry or name in self._more
        return known and (self._key is None or self._key.may_use(str(name)))

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys((*self._models, *self._registry, *self._more))
        yield from (name for name in names if self._shows(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def of(self, key: Key) -> MemberNames:
        """Those that a key may use."""
        return MemberNames(self._registry, self._models[1:], self._more, key)

    def _shows(self, name: str) -> bool:
        if self._key is None:
            return True
        served = self._registry.get(name)
        allowed = served is None or served.policy.allows_key(self._key.secret)
        return allowed and self._key.may_use(name)


class Access:
    """Adapters for requests, as their policies allow."""

    def __init__(self, registry: Registry, loader: Loader, models: Collection[str]) -> None:
        """`models`: the auxiliary ones."""
        self.names = MemberNames(registry, models)
        self._registry = registry
        self._loader = loader
        self._models = (BASE, *models)

    async def lease(self, aliases: Collection[str]) -> Lease:
        """The adapters as they are now, loaded; they stay until the lease is released.

        Raises:
            AdapterUnavailableError: one of them does not load.
        """
        lease = self._registry.lease(aliases)
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

    def check_plan(self, plan: Plan, key: Key, gone: Collection[str] = ()) -> None:
        """Whether all members but those that are gone may be used so.

        Raises:
            UnknownModelError: one of them is not served any more.
            AdapterForbiddenError: the policy of one is against it.
        """
        for member, weight in zip(plan.members, plan.weights, strict=True):
            if member.model in self._models or member.model in gone:
                self._check_known(member.model, key)
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

    def check(self, alias: str, key: Key) -> Policy:
        """The policy of an adapter that this key may use. Raises as `check_plan`."""
        served = self._registry.get(alias)
        if served is None:
            raise UnknownModelError(alias, self.names.of(key), param=FIELD)
        self._check_known(alias, key)
        if not served.policy.allows_key(key.secret):
            raise AdapterForbiddenError(
                f"the adapter {quoted(alias)} is not open to this API key. Ask its operator.",
                param="model",
            )
        return served.policy

    def _check_known(self, name: str, key: Key) -> None:
        if not key.may_use(name):
            raise UnknownModelError(name, self.names.of(key), param=FIELD)
