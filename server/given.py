"""Adapters that the command line names, on their way into the store."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from adapters import (
    CONFIG,
    WEIGHTS,
    AdapterError,
    AdapterNotFoundError,
    ModelShapes,
    Store,
    Version,
    inspect,
)

ACTOR = "command line"


def publish_given(
    store: Store,
    adapters: Iterable[tuple[str, Path]],
    shapes: ModelShapes | None,
) -> None:
    """Publish the adapters that the command line gives to one model.

    A store that was used before may know a later version of an alias, published while a server ran.
    That one stays, unless the folder has changed since the command line last published it.

    Raises:
        AdapterError: one cannot be served, or a name is given twice.
    """
    seen: set[str] = set()
    for alias, path in adapters:
        if alias in seen:
            raise AdapterError(
                alias, path, "the name is given twice", "Give each adapter its own name"
            )
        seen.add(alias)
        _publish(store, alias, path, shapes)


def _publish(store: Store, alias: str, path: Path, shapes: ModelShapes | None) -> None:
    inspect(path, alias, shapes)  # where it is, so that errors name the folder that was given
    with store.staging() as folder:
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(path / name, folder / name)
        given = store.commit(folder, alias, shapes, {"source": str(path)})
        past = [v for v in _history(store, alias) if v.actor == ACTOR and v.digest is not None]
        if not past or past[-1].digest != given.digest:
            store.publish(alias, given.digest, actor=ACTOR, origin={"source": str(path)})


def _history(store: Store, alias: str) -> tuple[Version, ...]:
    try:
        return store.history(alias)
    except AdapterNotFoundError:
        return ()
