"""Aliases and the engine's names and numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters import AdapterError, Catalogue, Generation


def generation(alias: str, digest: str = "0" * 64, rank: int = 8) -> Generation:
    return Generation(alias, digest, Path("/adapters") / alias, rank)


def test_lookup_keeps_the_order_given() -> None:
    rude, polite = generation("rude", rank=16), generation("polite")
    catalogue = Catalogue([rude, polite])
    assert catalogue.names() == ("rude", "polite")
    assert catalogue.generations() == (rude, polite)
    assert catalogue.get("polite") is polite
    assert catalogue.get("nobody") is None
    assert catalogue.max_rank == 16
    assert len(catalogue) == 2


def test_without_adapters() -> None:
    assert Catalogue().names() == ()
    assert Catalogue().max_rank == 0


def test_one_content_under_two_names_is_two_adapters_to_the_engine() -> None:
    one, two = generation("one"), generation("two")
    assert one.engine_name != two.engine_name
    assert one.id != two.id


def test_a_name_stands_for_one_adapter() -> None:
    with pytest.raises(AdapterError, match="given twice"):
        Catalogue([generation("polite"), generation("polite", digest="1" * 64)])


def test_generations_are_values() -> None:
    assert generation("polite") == generation("polite")
    with pytest.raises(AttributeError):
        generation("polite").rank = 3  # type: ignore[misc]
