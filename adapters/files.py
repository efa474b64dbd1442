"""The two files of an adapter: their names, and how to open files below one folder only."""

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
"""File names of pickled weights: loading them can run code, so they are never opened."""

CHUNK = 1 << 20
"""Chunk size, in bytes, for reading, checking and writing files."""

# Without O_NONBLOCK, opening a FIFO waits for its writer.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


def open_below(root: Path, path: Path | str) -> int:
    """Open the file or folder `path` below `root` for reading; the caller closes the descriptor.

    A relative path is relative to `root`. Symbolic links are followed as long as they stay below
    the root. The resolved path is opened component by component, each relative to its parent and
    none through a link, so replacing a folder by a link between check and open is detected. `root`
    itself and its parents are trusted.

    Raises:
        SourceError: the path lies outside, does not exist, cannot be read, or is neither a file nor
            a folder.
    """
    try:
        real_root = Path(os.path.realpath(root))
        # Not strict, and compared before it is opened: clients must not learn whether a path
        # outside exists.
        real = Path(os.path.realpath(real_root / path))
    except ValueError as error:
        raise SourceError(f"{quoted(str(path))} is not a path: {error}. Give another.") from error
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
    """Open the file `name` in the open folder `descriptor`; return None if there is no such file.

    The file may be a link to elsewhere below `root`, as in the cache of the Hugging Face hub.
    Such a link is relative to `folder`, the path that the folder was opened by.
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
    """Return the descriptor if it is of one of these kinds; refuse devices, pipes and sockets."""
    mode = os.fstat(descriptor).st_mode
    if not any(kind(mode) for kind in kinds):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is neither a file nor a folder")
    return descriptor


def missing(source: str, names: Sequence[str], present: Sequence[str]) -> SourceError:
    """Return the error for a `source` without the files `names` and with the files `present`."""
    pickles = [name for name in present if name.endswith(PICKLES)]
    if WEIGHTS in names and pickles:
        return SourceError(
            f"{quoted(source)} has its weights in {quoted(pickles[0])}, a format that can run code "
            "when loaded. Save it again with PEFT's save_pretrained(safe_serialization=True)."
        )
    shown = f"; found: {listing([quoted(name) for name in present])}" if present else ""
    return SourceError(
        f"{quoted(source)} has no {' and no '.join(names)}{shown}. Give the folder or the archive "
        "of one adapter, as PEFT's save_pretrained writes it."
    )
