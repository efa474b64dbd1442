"""Processes and their descendants, read from /proc (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """Return the command lines of all descendants of `pid`, by process id."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    commands: dict[int, str] = {}
    left = list(children.get(pid, ()))
    while left:
        child = left.pop()
        left += children.get(child, [])
        try:
            commands[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue  # the process has ended
    return commands


def resident_bytes(pid: int, *, itself: bool = True) -> int:
    """Return the resident memory of the descendants of `pid`, and with `itself` its own, in
    bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for process in ([pid] if itself else []) + [*descendants(pid)]:
        try:
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * page
        except OSError:
            continue  # the process has ended
    return total


def alive(pids: Collection[int]) -> list[int]:
    """Return the processes that run; zombies do not count."""
    return [pid for pid in pids if _parent(pid) is not None]


def await_end(pids: Collection[int], seconds: float) -> list[int]:
    """Wait at most `seconds` for all to end; return those that still run."""
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
