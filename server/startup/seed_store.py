"""Adapters that the command line names, on their way into the store; files of examples."""

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
    """The profile of what is called `name`: one example a line; empty lines do not count.

    Raises:
        ValueError: the file cannot be read, or has nothing in it.
        ProfileError: it has too much in it.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--examples {name}={file}: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"--examples {name}={file}: the file is empty. Write one prompt a line.")
    return Profile.from_json({"examples": texts})


def publish_given(
    store: Store,
    adapters: Iterable[tuple[str, Path]],
    shapes: ModelShapes | None,
    profiles: Mapping[str, Profile] | None = None,
) -> None:
    """Publish the adapters that the command line gives to one model, with their profiles.

    A store that was used before may know a later version of an alias, published while a server ran.
    That one stays, unless the folder has changed since the command line last published it; so does
    a profile.

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
        _publish(store, alias, path, shapes, (profiles or {}).get(alias, EMPTY_PROFILE))


def _publish(
    store: Store, alias: str, path: Path, shapes: ModelShapes | None, profile: Profile
) -> None:
    report = inspect(path, alias, shapes)  # where it is, so that errors name the folder given
    own = [v for v in _history(store, alias) if v.actor == ACTOR]
    published = [v for v in own if v.action is Action.PUBLISH]
    if not published or published[-1].digest != report.digest or not _is_stored(store, report):
        origin = {"source": str(path)}
        with store.staging() as folder:
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(path / name, folder / name)
            given = store.commit(folder, alias, shapes, origin)
            if not published or published[-1].digest != given.digest:
                store.publish(alias, given.digest, actor=ACTOR, origin=origin, profile=profile)
                return
    if own and profile.merged_over(own[-1].profile) != own[-1].profile and alias in store.aliases():
        store.set_profile(alias, profile.merged_over(store.current(alias).profile), actor=ACTOR)


def _is_stored(store: Store, report: Report) -> bool:
    """Whether the store has this content whole; what is missing or damaged is stored again."""
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
