"""Aliases, generations, and who still uses them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from adapters import Generation, Lease, Policy, Registry


class Retired(list[Generation]):
    """What the registry retired, in order."""


@pytest.fixture
def retired() -> Retired:
    return Retired()


@pytest.fixture
def registry(retired: Retired) -> Registry:
    return Registry(retired.append)


def publish(registry: Registry, alias: str, content: int, version: int) -> Generation:
    digest = f"{content:064x}"[::-1]
    with registry.prepare(alias, digest, Path("/objects") / digest, rank=8) as lease:
        registry.point(lease.generations[alias], Policy(), version)
        return lease.generations[alias]


def test_an_alias_stands_for_the_latest_version(registry: Registry, retired: Retired) -> None:
    old = publish(registry, "polite", 1, version=1)
    new = publish(registry, "polite", 2, version=2)
    served = registry.get("polite")
    assert served is not None
    assert served.generation == new
    assert (served.version, registry.names()) == (2, ("polite",))
    assert retired == [old]


def test_a_request_keeps_its_generation(registry: Registry, retired: Retired) -> None:
    old = publish(registry, "polite", 1, version=1)
    first, second = registry.lease({"polite"}), registry.lease({"polite"})
    new = publish(registry, "polite", 2, version=2)
    assert first.generations == {"polite": old}
    assert registry.lease({"polite"}).generations == {"polite": new}
    first.release()
    first.release()  # once is enough
    assert registry.is_live(old)
    assert not retired
    second.release()
    assert retired == [old]
    assert not registry.is_live(old)


def test_a_removed_alias_serves_nobody_new(registry: Registry, retired: Retired) -> None:
    old = publish(registry, "polite", 1, version=1)
    lease = registry.lease({"polite"})
    assert registry.drop("polite", 2)
    assert "polite" not in registry
    with pytest.raises(KeyError):
        registry.lease({"polite"})
    assert not retired
    lease.release()
    assert retired == [old]


def test_an_older_version_never_comes_back_late(registry: Registry, retired: Retired) -> None:
    publish(registry, "polite", 2, version=2)
    late = publish(registry, "polite", 1, version=1)
    served = registry.get("polite")
    assert served is not None
    assert served.version == 2
    assert retired == [late]
    assert not registry.drop("polite", 2)
    assert registry.drop("polite", 3)
    publish(registry, "polite", 2, version=2)
    assert "polite" not in registry


def test_one_content_keeps_its_name_and_number(registry: Registry, retired: Retired) -> None:
    first = publish(registry, "polite", 1, version=1)
    publish(registry, "polite", 2, version=2)
    again = publish(registry, "polite", 1, version=3)
    assert again == first  # one name in the engine must be one number
    other = publish(registry, "rude", 1, version=1)
    assert other.engine_name != first.engine_name
    assert other.number != first.number


def test_one_content_published_again_is_not_retired(registry: Registry, retired: Retired) -> None:
    publish(registry, "polite", 1, version=1)
    lease = registry.lease({"polite"})
    publish(registry, "polite", 1, version=2)
    lease.release()
    assert not retired
    assert len(registry.live) == 1


def test_a_generation_that_failed_to_load_is_retired(registry: Registry, retired: Retired) -> None:
    with registry.prepare("polite", "0" * 64, Path("/x"), rank=8) as lease:
        failed = lease.generations["polite"]
    assert retired == [failed]
    assert registry.live == ()


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_events(seed: int, registry: Registry, retired: Retired) -> None:
    """Live is exactly what is served or leased; nothing is retired while it is in use."""
    rng = random.Random(seed)
    leases: list[Lease] = []
    versions = dict.fromkeys("abc", 0)
    for _ in range(2000):
        alias = rng.choice("abc")
        event = rng.random()
        if event < 0.2:
            versions[alias] += 1
            publish(registry, alias, rng.randrange(4), versions[alias])
        elif event < 0.25:
            versions[alias] += 1
            registry.drop(alias, versions[alias])
        elif event < 0.6 and alias in registry:
            leases.append(registry.lease({alias} | set(rng.sample(registry.names(), 1))))
        elif leases:
            leases.pop(rng.randrange(len(leases))).release()
        served = {s.generation for s in map(registry.get, registry) if s is not None}
        leased = {g for lease in leases for g in lease.generations.values()}
        assert set(registry.live) == served | leased
    for lease in leases:
        lease.release()
    assert {g.alias for g in registry.live} == set(registry)
    assert len(registry.live) == len(registry)
