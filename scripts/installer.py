"""pip, with a progress line instead of its hundreds of lines; the full log goes to a file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

NO_NETWORK = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "nodename nor servname",
    "Failed to establish a new connection",
    "Network is unreachable",
    "Read timed out",
)


class PipError(Exception):
    """pip ended with an error; `output` is what it printed."""

    def __init__(self, output: str, log: Path) -> None:
        super().__init__(explain(output, log))
        self.output = output


def explain(output: str, log: Path) -> str:
    """One sentence on what went wrong, with the remedy."""
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    last = errors[-1] if errors else "pip ended with an error"
    if any(sign in output for sign in NO_NETWORK):
        return (
            "the package index cannot be reached. Check the network or the proxy "
            f"(`pip config list`, HTTPS_PROXY), then run the same command again. {last}"
        )
    if "(from versions: none)" in output:
        return (
            f"{last}: no package index offers it, or none can be reached. "
            f"See `pip config list` and {log}."
        )
    if "No space left on device" in output:
        return f"the disk is full. Free some space and run the same command again. {last}"
    return f"{last} (the full log is {log})"


def install(python: Path, arguments: list[str], *, total: int, log: Path) -> None:
    """Run `python -m pip install` and show how far it is.

    Args:
        python: the environment's interpreter.
        arguments: what follows `pip install`.
        total: how many requirements pip will go through.
        log: receives everything that pip prints, appended.

    Raises:
        PipError: pip failed.
    """
    command = [str(python), "-m", "pip", "install", "--no-input", *arguments]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    progress = Progress(total)
    lines: list[str] = []
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        ) as process,
    ):
        file.write(f"$ {' '.join(command)}\n")
        for line in process.stdout or ():
            file.write(line)
            lines.append(line)
            progress.see(line)
    progress.end()
    if process.returncode != 0:
        raise PipError("".join(lines), log)


class Progress:
    """Turns pip's lines into one line that moves (terminal) or a line every ten seconds (pipe)."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._moves = sys.stdout.isatty()
        self._shown_at = time.monotonic()

    def see(self, line: str) -> None:
        words = line.split()
        if line.startswith(("Collecting ", "Processing ")):  # from an index, from a file
            self._done += 1
            self._show(words[1].rpartition("/")[2])
        elif line.startswith("Requirement already satisfied: "):
            self._done += 1
        elif words[:1] == ["Downloading"]:
            self._show(" ".join(words[1:]))
        elif line.startswith("Installing collected packages: "):
            count = line.count(",") + 1
            self._show(f"unpacking {count} packages, a minute or two", always=count > 20)

    def _show(self, what: str, *, always: bool = False) -> None:
        text = f"  [{self._done:3}/{self._total}] {what}"
        now = time.monotonic()
        if self._moves:
            print(f"\r\x1b[K{text[:99]}", end="", flush=True)
        elif always or now - self._shown_at >= 10:
            self._shown_at = now
            print(text, flush=True)

    def end(self) -> None:
        if self._moves:
            print("\r\x1b[K", end="", flush=True)
