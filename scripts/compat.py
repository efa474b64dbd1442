"""Compare a release of vLLM with what composition changes and reads in it.

    python3 -m scripts.compat 0.33.0

Downloads the source of the release (some 30 MB) from pip's package index, unpacks its Python files
and prints what is missing or otherwise, by file and name. Exit status: 0 if nothing is, 1 if
something is, 2 if the release cannot be had.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

from composer.vllm.seams.breaks import TABLES, breaks
from composer.vllm.seams.imports import missing_imports

DEFAULT_INDEX = "https://pypi.org/simple"


class _Links(HTMLParser):
    """The targets of a page's links, by the last part of their paths."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href") if tag == "a" else None
        if target:
            path = urllib.parse.urlparse(target).path
            self.by_name[path.rpartition("/")[2]] = target


def main() -> int:
    """Print what another release breaks."""
    parser = argparse.ArgumentParser(prog="python -m scripts.compat")
    parser.add_argument("release", help="of vLLM, such as 0.33.0")
    release = parser.parse_args().release
    with tempfile.TemporaryDirectory() as folder:
        try:
            package = _download(release, Path(folder))
        except (OSError, LookupError) as error:
            print(f"vLLM {release} cannot be had: {error}", file=sys.stderr)
            return 2
        broken = {table: list(breaks(package, table)) for table in TABLES}
        broken["imports"] = list(missing_imports(package))
    for table, lines in broken.items():
        print(f"{table}: {len(lines)} differences" if lines else f"{table}: nothing breaks")
        for line in lines:
            print(f"  {line}")
    return 1 if any(broken.values()) else 0


def _download(release: str, folder: Path) -> Path:
    """Unpack the Python files of a release, and return the folder of its package.

    Raises:
        OSError: the index does not answer.
        LookupError: it does not have the release.
    """
    page = f"{_index()}/vllm/"
    links = _Links()
    with urllib.request.urlopen(page, timeout=60) as response:
        links.feed(response.read().decode())
    name = f"vllm-{release}.tar.gz"
    if name not in links.by_name:
        raise LookupError(f"the package index has no {name}")
    archive = folder / name
    source = urllib.parse.urljoin(page, links.by_name[name])
    with urllib.request.urlopen(source, timeout=60) as response, archive.open("wb") as file:
        while chunk := response.read(1 << 20):
            file.write(chunk)
    with tarfile.open(archive) as tar:
        wanted = [m for m in tar if m.name.startswith(f"vllm-{release}/vllm/") and m.isfile()]
        python = [m for m in wanted if m.name.endswith(".py")]
        tar.extractall(folder, members=python, filter="data")
    return folder / f"vllm-{release}" / "vllm"


def _index() -> str:
    """Return the address of pip's package index."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return (found or DEFAULT_INDEX).rstrip("/")


if __name__ == "__main__":
    sys.exit(main())
