"""Models of adapters and their versions."""

from __future__ import annotations

from pydantic import Field, JsonValue

from clients.responses.wire_model import Wire


class AdapterPolicy(Wire):
    """Who may use an adapter, and how. By default everything is allowed.

    compositions: whether it may be a member of a composition.
    negative: whether it may have a negative weight.
    keys: API keys that may use it, each as "sha256:" and its hash in hex; None allows every key.
    """

    compositions: bool = True
    negative: bool = True
    keys: tuple[str, ...] | None = None


class AdapterProfile(Wire):
    """What an adapter is for; routers that read the prompt compare it with these texts.

    examples: prompts that the adapter should answer.
    description: what it is for, in a few words; used if there are no examples.
    """

    examples: tuple[str, ...] | None = None
    description: str | None = None


class AdapterReport(Wire):
    """What inspection read from the two files of an adapter."""

    digest: str
    rank: int
    scaling: tuple[float, ...] = ()
    modules: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    parameters: int = 0
    size_bytes: int = 0
    base_model: str | None = None
    warnings: tuple[str, ...] = ()


class AdapterVersion(Wire):
    """One change of an alias.

    number: counts the changes of the alias from 1; `if_match` refers to it.
    digest: content that the alias pointed at from then on; None if it was deleted.
    """

    alias: str
    number: int
    action: str
    digest: str | None = None
    policy: AdapterPolicy
    profile: AdapterProfile = AdapterProfile()
    time: str
    actor: str
    origin: dict[str, JsonValue] = Field(default_factory=dict)


class Adapter(AdapterVersion):
    """Present state of an alias; `served`: new requests get this version; `error`: why not."""

    adapter: AdapterReport | None = None
    served: bool
    error: str | None = None


class AdapterList(Wire):
    """All adapters; `retiring`: replaced generations that requests in flight still use."""

    data: tuple[Adapter, ...]
    retiring: tuple[str, ...] = ()


class AdapterHistory(Wire):
    data: tuple[AdapterVersion, ...]
