"""Read requirements/*.lock."""

from __future__ import annotations

from pathlib import Path


def read_pins(lock: Path, platform: str) -> list[str]:
    """Return the pins of a lock for `platform` (a value of `sys.platform`), without markers."""
    pins = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        pin, _, marker = line.partition(";")
        foreign = "sys_platform" in marker and platform not in marker
        if pin.strip() and not pin.startswith("#") and not foreign:
            pins.append(pin.strip())
    return pins


def torch_cpu_pin(pins: list[str]) -> str | None:
    """Return the pin of torch if it names the CPU build, which not every package index has."""
    return next((pin for pin in pins if pin.startswith("torch==") and pin.endswith("+cpu")), None)
