"""The pages for browsers: every file is served as what it is, and allows nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin

import pytest

from server.auth.access_control import PAGES
from server.routes.pages import MEDIA_TYPES, PageFile, page_files
from tests.support.live_server import LiveServer

FOLDER = Path(__file__).resolve().parents[3] / "server" / "page"
SERVED = page_files()
MARKUP = re.compile(r"""(?:src|href)=["']([^"']*)["']""")
INLINE = re.compile(r"<style|<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|javascript:|https?://", re.I)


def directives(policy: str) -> dict[str, str]:
    return dict(part.strip().split(" ", 1) for part in policy.split(";"))


def source_of(path: str) -> Path:
    """The file of a path, by the rule of the module's docstring."""
    if path.startswith("/page/"):
        return FOLDER / path.removeprefix("/page/")
    return FOLDER / path.removeprefix("/") / "index.html"


def test_every_file_of_the_folder_has_a_path() -> None:
    kept = {path for path in FOLDER.rglob("*") if path.suffix in MEDIA_TYPES}
    assert {source_of(path) for path in SERVED} == kept


@pytest.mark.parametrize(("path", "file"), SERVED.items(), ids=SERVED)
def test_a_file_is_sent_with_its_type_and_policy(
    server: LiveServer, path: str, file: PageFile
) -> None:
    answer = server.http.get(path)
    assert (answer.status_code, answer.content) == (200, source_of(path).read_bytes())
    assert answer.headers["content-type"] == MEDIA_TYPES[source_of(path).suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = directives(answer.headers["content-security-policy"])
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}, "nothing inline, from nowhere else"
    head = server.http.head(path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", SERVED)
def test_a_file_is_sent_once(server: LiveServer, path: str) -> None:
    etag = server.http.get(path).headers["etag"]
    for asked in (etag, f'"other", W/{etag}'):
        again = server.http.get(path, headers={"If-None-Match": asked})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    assert server.http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", sorted(PAGES & SERVED.keys()))
def test_a_page_is_complete_and_has_nothing_inline(server: LiveServer, path: str) -> None:
    """What the policy forbids would be missing without a word; files are relative for proxies."""
    text = source_of(path).read_text(encoding="utf-8")
    assert INLINE.findall(text) == []
    named = [name for name in MARKUP.findall(text) if not name.startswith("#")]
    assert named
    for name in named:
        assert not name.startswith("/"), name
        target = urljoin("http://host/", name).removeprefix("http://host")
        assert target in PAGES or server.http.get(target).status_code == 200, name


def test_pages_are_not_in_the_document(server: LiveServer) -> None:
    paths = server.http.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path in SERVED]


def test_a_browser_gets_it_compressed(server: LiveServer) -> None:
    packed = server.http.get("/", headers={"Accept-Encoding": "gzip"})
    plain = server.http.get("/", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content == source_of("/").read_bytes()
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])
    assert packed.headers["vary"] == "Accept-Encoding, Origin"
