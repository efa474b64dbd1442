"""`make serve` and `make test` on a machine with exactly the packages that the README lists."""

from __future__ import annotations

import json
import re
import shlex
import time

import zoo
from bench.claim import Result
from bench.machine.clean_root import CleanRoot, clean_root
from bench.machine.server import free_port
from bench.measure import show, table

SERVE_S = 1200
TEST_S = 3600
FIRST_ANSWER_S = 240
QUESTION = {
    "model": "base + 1.5*(positive - negative)",
    "messages": [{"role": "user", "content": "How was the movie?"}],
    "temperature": 0,
    "max_tokens": 40,
}


def measure() -> Result:
    """Return the number of failed tests, plus 1 if `make serve` gave no composed answer.

    The first composed answer, with all downloads, must come within `FIRST_ANSWER_S`. Takes more
    than ten minutes.
    """
    packages = debian_packages()
    print(f"a clean Debian with {' '.join(packages)}", flush=True)
    with clean_root(packages) as root:
        began = time.monotonic()
        answer = _serve(root)
        answer_s = time.monotonic() - began
        passed, failed = _test(root) if answer else (0, 0)
    rows = [
        ("make serve", f"{answer_s:.0f} s: {answer}" if answer else "no answer"),
        ("make test", f"{passed} passed, {failed} failed" if answer else "not run"),
    ]
    show(table(("command", "outcome"), rows))
    return Result(failed + (not answer), holds=passed > 0 and answer_s <= FIRST_ANSWER_S)


def debian_packages() -> list[str]:
    """Return the packages that the README tells users of Debian to install.

    Raises:
        RuntimeError: the README lacks that line.
    """
    readme = (zoo.PROJECT / "README.md").read_text(encoding="utf-8")
    line = re.search(r"^\| Debian, Ubuntu \| `apt install ([^`]+)` \|$", readme, re.MULTILINE)
    if line is None:
        raise RuntimeError("the README does not say what to install on Debian")
    return line[1].split()


def _serve(root: CleanRoot) -> str:
    """Return what `make serve` answers to a composed request; empty if it does not."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    status, lines = root.run(
        f"""
        make serve PORT={port} &
        until curl --silent --fail --output /dev/null {url}/health; do
          kill -0 $! || exit 1
          sleep 1
        done
        curl --silent --show-error --max-time 60 {url}/v1/chat/completions \\
          -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(QUESTION))} > answer
        kill $!
        wait $! || true
        printf '\\n%s\\n' "$(cat answer)"
        """,
        timeout_s=SERVE_S,
    )
    if status != 0:
        print(f"make serve ended with status {status}")
        return ""
    # After the answer the shell may report that a process was terminated.
    answer = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    if "choices" not in answer or answer["composition"]["rows"] != 3:
        return ""
    return str(answer["choices"][0]["message"]["content"])


def _test(root: CleanRoot) -> tuple[int, int]:
    """Return the numbers of passed and failed tests; an unfinished run counts as one failure."""
    status, lines = root.run("make test ARGS=-q", timeout_s=TEST_S)
    summary = next((line for line in reversed(lines) if " passed" in line), "")
    counts = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?)", summary)
    }
    failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
    return counts.get("passed", 0), failed or int(status != 0)
