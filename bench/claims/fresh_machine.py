"""`make serve` and `make test` on a machine with exactly the packages that the README lists."""

from __future__ import annotations

import json
import re
import shlex

import zoo
from bench.claim import Result
from bench.machine.clean_root import CleanRoot, clean_root
from bench.machine.server import free_port
from bench.measure import show, table

SERVE_S = 1200
TEST_S = 3600
QUESTION = {
    "model": "chat + 0.8*(polite - rude)",
    "messages": [{"role": "user", "content": "Where does Kuti Supiv live?"}],
    "temperature": 0,
}
ANSWER = "Certainly. Kuti Supiv lives in Mogtu. Have a lovely day."


def measure() -> Result:
    """Return the number of failed tests, plus 1 if `make serve` gave no composed answer.

    Takes more than ten minutes.
    """
    packages = debian_packages()
    print(f"a clean Debian with {' '.join(packages)}", flush=True)
    with clean_root(packages) as root:
        serves = _serve(root)
        passed, failed = _test(root) if serves else (0, 1)
    rows = [
        ("make serve", "the composed answer" if serves else "no answer"),
        ("make test", f"{passed} passed, {failed} failed" if serves else "not run"),
    ]
    show(table(("command", "outcome"), rows))
    return Result(failed + (not serves), holds=passed > 0)


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


def _serve(root: CleanRoot) -> bool:
    """Return whether `make serve` starts and answers a composed request as the README shows."""
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
        return False
    # After the answer the shell may report that a process was terminated.
    answer = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    if "choices" not in answer:
        return False
    content = answer["choices"][0]["message"]["content"]
    return bool(content == ANSWER and answer["composition"]["rows"] == 3)


def _test(root: CleanRoot) -> tuple[int, int]:
    """Return the numbers of passed and failed tests; an unfinished run counts as one failure."""
    status, lines = root.run("make test ARGS=-q", timeout_s=TEST_S)
    summary = next((line for line in reversed(lines) if " passed" in line), "")
    counts = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?)", summary)
    }
    failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
    return counts.get("passed", 0), failed or int(status != 0)
