"""Processes and the processes that they have started, as /proc shows them (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """The command lines of all processes that `pid` has started, and those have, by their ids."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found: dict[int, str] = {}
    left = list(children.get(pid, ()))
    while left:
        one = left.pop()
        left += children.get(one, [])
        try:
            found[one] = Path(f"/proc/{one}/cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue  # it has ended
    return found


def resident_bytes(pid: int) -> int:
    """The memory of `pid` and of all that it has started, bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for one in (pid, *descendants(pid)):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page
        except OSError:
            continue  # it has ended
    return total


def alive(pids: Collection[int]) -> list[int]:
    """Those that run; not those that have ended and that nobody has waited for."""
    return [pid for pid in pids if _parent(pid) is not None]


def await_end(pids: Collection[int], seconds: float) -> list[int]:
    """Wait until all have ended, at most `seconds`; those that have not."""
    deadline = time.monotonic() + seconds
    while (left := alive(pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _parent(pid: int) -> int | None:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in "ZX" else int(parent)
