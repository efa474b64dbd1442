"""What a browser loads for the playground, the chart's library included."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import show, table
from server.routes.pages import PageFile, page_files

KB = 1000  # bytes


def measure() -> Result:
    """Return the kilobytes that are sent; the table has the size of the files as well."""
    files = {
        path: file
        for path, file in page_files().items()
        if not path.startswith(("/status", "/page/status/"))
    }
    vendored = {path: file for path, file in files.items() if path.startswith("/page/vendor/")}
    rows = [
        (what, f"{size(some, sent=False):.1f}", f"{size(some, sent=True):.1f}")
        for what, some in (("libraries", vendored), ("everything", files))
    ]
    show(table(("KB of", "files", "sent, with gzip"), rows))
    return Result(size(files, sent=True))


def size(files: dict[str, PageFile], *, sent: bool) -> float:
    """Return the size of files in KB, as they are or as they are sent."""
    each = (len(file.compressed if sent else file.content) for file in files.values())
    return sum(each) / KB
