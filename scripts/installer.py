"""Run pip with one progress line instead of its hundreds of lines; the full log goes to a file."""

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
    """pip failed; `output` is what it printed."""

    def __init__(self, output: str, log: Path) -> None:
        super().__init__(explain(output, log))
        self.output = output


def explain(output: str, log: Path) -> str:
    """Return one sentence on what went wrong, with the remedy."""
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    last = errors[-1] if errors else "pip failed"
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
    """Run `python -m pip install` and show its progress.

    Args:
        python: the environment's interpreter.
        arguments: arguments after `pip install`.
        total: number of requirements that pip will process.
        log: file to which all output of pip is appended.

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
            progress.update(line)
    progress.end()
    if process.returncode != 0:
        raise PipError("".join(lines), log)


class Progress:
    """Turn pip's output into one rewritten line (terminal) or a line every ten seconds (pipe)."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._terminal = sys.stdout.isatty()
        self._shown_at = time.monotonic()

    def update(self, line: str) -> None:
        """Count a line of pip's output, and show it if it tells something new."""
        words = line.split()
        if line.startswith(("Collecting ", "Processing ")):  # from an index, or from a file
            self._done += 1
            self._show(words[1].rpartition("/")[2])
        elif line.startswith("Requirement already satisfied: "):
            self._done += 1
        elif words[:1] == ["Downloading"]:
            self._show(" ".join(words[1:]))
        elif line.startswith("Installing collected packages: "):
            count = line.count(",") + 1
            self._show(f"unpacking {count} packages, a minute or two", always=count > 20)

    def _show(self, message: str, *, always: bool = False) -> None:
        text = f"  [{self._done:3}/{self._total}] {message}"
        now = time.monotonic()
        if self._terminal:
            print(f"\r\x1b[K{text[:99]}", end="", flush=True)
        elif always or now - self._shown_at >= 10:
            self._shown_at = now
            print(text, flush=True)

    def end(self) -> None:
        """Remove the line from the terminal."""
        if self._terminal:
            print("\r\x1b[K", end="", flush=True)
