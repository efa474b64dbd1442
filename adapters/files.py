"""An adapter's two files: their names, and opening what lies below one folder only."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from adapters.errors import SourceError
from adapters.inspection.problems import listing
from composer.errors import quoted

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt")
"""Weights whose loading can run code. Never opened; named in messages."""

CHUNK = 1 << 20
"""Bytes that are read, checked and written at a time."""

# Without O_NONBLOCK, opening a FIFO waits for its writer.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


def open_below(root: Path, path: Path | str) -> int:
    """A descriptor of the file or folder `path` below `root`, for reading; the caller closes it.

    A relative path is relative to `root`. Symbolic links are followed as long as they stay below
    the root. What is opened is what was checked: the resolved path is opened component by
    component, each relative to the one before and none through a link, so swapping a folder for a
    link in between is refused. `root` itself and what leads to it is the operator's.

    Raises:
        SourceError: it lies outside, does not exist, cannot be read, or is neither file nor folder.
    """
    try:
        real_root = Path(os.path.realpath(root))
        # Not strict, and compared before it is opened: what lies outside stays unknown, even
        # whether it exists.
        real = Path(os.path.realpath(real_root / path))
    except ValueError as error:
        raise SourceError(f"{quoted(str(path))} is no path: {error}. Give another.") from error
    except OSError as error:  # a link that went away between being seen and being read
        raise _unreadable(path, error) from error
    if not real.is_relative_to(real_root):
        raise SourceError(
            f"{quoted(str(path))} leads outside the folder of adapters. Move the adapter into the "
            "folder of --adapter-root."
        )
    try:
        return _descend(real_root, real.relative_to(real_root).parts)
    except OSError as error:
        raise _unreadable(path, error) from error


def open_file_in(root: Path, folder: Path | str, descriptor: int, name: str) -> int | None:
    """A descriptor of the file `name` in the open folder `descriptor`; None where there is none.

    The file may be a link to elsewhere below `root`, as in the cache of the Hugging Face hub.
    `folder` is the path that the folder was opened by, to which such a link is relative.
    """
    try:
        try:
            return _plain(os.open(name, _READ, dir_fd=descriptor), stat.S_ISREG)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        real_folder = os.path.realpath(root / folder)
        target = open_below(root, Path(real_folder) / os.readlink(name, dir_fd=descriptor))
        return _plain(target, stat.S_ISREG)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(
            f"{name} in {quoted(str(folder))} cannot be read: {error.strerror}. "
            "Give a folder with the files that PEFT's save_pretrained writes."
        ) from error


def _unreadable(path: Path | str, error: OSError) -> SourceError:
    return SourceError(
        f"{quoted(str(path))} in the folder of adapters cannot be read: {error.strerror}. Give the "
        "path of a folder or an archive in the folder of --adapter-root."
    )


def _descend(root: Path, parts: tuple[str, ...]) -> int:
    here = os.open(root, _READ & ~os.O_NOFOLLOW | os.O_DIRECTORY)
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        try:
            below = os.open(part, _READ | (0 if last else os.O_DIRECTORY), dir_fd=here)
        finally:
            os.close(here)
        here = below
    return _plain(here, stat.S_ISREG, stat.S_ISDIR)


def _plain(descriptor: int, *kinds: Callable[[int], bool]) -> int:
    """The descriptor, unless it is of another kind than these: a device, a pipe, a socket."""
    mode = os.fstat(descriptor).st_mode
    if not any(kind(mode) for kind in kinds):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is of another kind than a file or a folder")
    return descriptor


def missing(source: str, names: Sequence[str], found: Sequence[str]) -> SourceError:
    """`source` lacks the files `names`; `found` is what it has instead."""
    pickles = [name for name in found if name.endswith(PICKLES)]
    if WEIGHTS in names and pickles:
        return SourceError(
            f"{quoted(source)} has its weights in {quoted(pickles[0])}, a format that can run code "
            "when loaded. Save it again with PEFT's save_pretrained(safe_serialization=True)."
        )
    shown = f"; found: {listing([quoted(name) for name in found])}" if found else ""
    return SourceError(
        f"{quoted(source)} has no {' and no '.join(names)}{shown}. Give the folder or the archive "
        "of one adapter, as PEFT's save_pretrained writes it."
    )
