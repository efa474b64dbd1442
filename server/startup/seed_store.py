"""Publish the adapters of the command line into the store; read files of examples."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from adapters import (
    CONFIG,
    EMPTY_PROFILE,
    WEIGHTS,
    Action,
    AdapterError,
    AdapterNotFoundError,
    AdapterStoreError,
    ModelShapes,
    Profile,
    Store,
    Version,
    inspect,
)
from adapters.inspection.problems import Report

ACTOR = "command line"


def read_examples(name: str, file: Path) -> Profile:
    """Return the profile of the model `name` from a file: one example per line, no empty lines.

    Raises:
        ValueError: the file cannot be read, or is empty.
        ProfileError: the file has too many or too long examples.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--examples {name}={file}: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"--examples {name}={file}: the file is empty. Write one prompt a line.")
    return Profile.from_json({"examples": texts})


def publish_seeds(
    store: Store,
    adapters: Iterable[tuple[str, Path]],
    shapes: ModelShapes | None,
    profiles: Mapping[str, Profile] | None = None,
) -> None:
    """Publish the adapters of one model that the command line names, with their profiles.

    An existing store may hold a later version of an alias, published while a server ran. It stays,
    unless the folder has changed since the command line last published it; so does a profile.

    Raises:
        AdapterError: an adapter cannot be served, or a name is given twice.
    """
    seen: set[str] = set()
    for alias, path in adapters:
        if alias in seen:
            raise AdapterError(
                alias, path, "the name is given twice", "Give each adapter its own name"
            )
        seen.add(alias)
        _publish(store, alias, path, shapes, (profiles or {}).get(alias, EMPTY_PROFILE))


def _publish(
    store: Store, alias: str, path: Path, shapes: ModelShapes | None, profile: Profile
) -> None:
    report = inspect(path, alias, shapes)  # in place, so that errors name the folder of the option
    seeded = [v for v in _history(store, alias) if v.actor == ACTOR]
    published = [v for v in seeded if v.action is Action.PUBLISH]
    if not published or published[-1].digest != report.digest or not _is_stored(store, report):
        origin = {"source": str(path)}
        with store.staging() as folder:
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(path / name, folder / name)
            stored = store.commit(folder, alias, shapes, origin)
            if not published or published[-1].digest != stored.digest:
                store.publish(alias, stored.digest, actor=ACTOR, origin=origin, profile=profile)
                return
    if (
        seeded
        and profile.merged_over(seeded[-1].profile) != seeded[-1].profile
        and alias in store.aliases()
    ):
        store.set_profile(alias, profile.merged_over(store.current(alias).profile), actor=ACTOR)


def _is_stored(store: Store, report: Report) -> bool:
    """Return whether the store has this content undamaged; if not, it is stored again."""
    try:
        store.verify(report.digest)
    except (AdapterNotFoundError, AdapterStoreError):
        return False
    return True


def _history(store: Store, alias: str) -> tuple[Version, ...]:
    try:
        return store.history(alias)
    except AdapterNotFoundError:
        return ()
