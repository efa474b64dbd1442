"""Which URLs are taken, and which of them a prefix allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.errors import SourceError
from adapters.fetch.sources import SourceRules
from adapters.fetch.urls import parse


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/a/b", "https://host/a/b"),
        ("HTTPS://HOST:443/A/", "https://host/A"),
        ("http://host:8080", "http://host:8080"),
        ("http://host:443/a", "http://host:443/a"),
        ("https://[::1]:8443/a", "https://[::1]:8443/a"),
        ("https://host/a%20b/c+d", "https://host/a%20b/c+d"),
        ("hf://Org/name@refs/pr/1", "hf://Org/name"),
        ("s3://bucket/a.b/c", "s3://bucket/a.b/c"),
        ("memory://Folder/x", "memory://Folder/x"),
    ],
)
def test_urls_are_written_anew(url: str, expected: str) -> None:
    assert parse(url).url == expected
    assert parse(expected).url == expected


def test_the_revision_of_a_hub_id() -> None:
    assert parse("hf://org/name").revision is None
    assert parse("hf://org/name@v1.0").revision == "v1.0"
    assert parse("hf://org/name@refs/pr/1").revision == "refs/pr/1"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("host/a", "no scheme"),
        ("://host/a", "no scheme"),
        ("https:///a", "host"),
        ("https://user@host/a", "user name"),
        ("https://user:word@host/a", "user name"),
        ("https://host:x/a", "host"),
        ("https://host:/a", "host"),
        ("https://host./a", "host"),
        ("https://ho..st/a", "host"),
        ("https://host/a/../b", "'..'"),
        ("https://host/..", "'..'"),
        ("https://host/./a", "'.'"),
        ("https://host//a", "empty"),
        ("https://host/a//", "empty"),
        ("https://host/%2e%2E/a", "encoded"),
        ("https://host/a%2fb", "encoded"),
        ("https://host/a%5cb", "encoded"),
        ("https://host/a%252fb", "encoded"),
        ("https://host/a%00b", "encoded"),
        ("https://host/a%zz", "encoded"),
        ("https://host/..;/a", "characters"),
        ("https://host\\@evil/a", "characters"),
        ("https://host/a\\b", "characters"),
        ("https://host/a b", "characters"),
        ("https://host/a\nb", "characters"),
        ("https://höst/a", "characters"),
        ("https://host/a?b=c", "query"),
        ("https://host?/a", "query"),
        ("https://host/a#b", "fragment"),
        ("https://host/a.zip::file:///etc/passwd", "chains"),
        ("simplecache::https://host/a", "no scheme"),
        ("file:///etc/passwd", "not remote"),
        ("FILE://host/etc/passwd", "not remote"),
        ("local:///etc/passwd", "not remote"),
        ("zip://a/b", "not remote"),
        ("hf://org", "hf://organization/name"),
        ("hf://org/name/more", "hf://organization/name"),
        ("hf://org/name@", "revision"),
        ("hf://org/name@../x", "revision"),
        ("hf://org/name@a/../../x", "revision"),
        ("hf://org@x/name", "user name"),
        ("hf://", "host"),
    ],
)
def test_urls_that_programs_may_read_differently(url: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse(url)
    assert reason in caught.value.message
    assert "https://host/folder" in caught.value.message  # the remedy


@pytest.mark.parametrize(
    ("prefix", "url", "allowed"),
    [
        ("https://host/a", "https://host/a", True),
        ("https://host/a/", "https://host/a", True),
        ("https://host/a", "https://host/a/b/c.zip", True),
        ("https://host/a", "https://host/ab", False),
        ("https://host/a", "https://host/A", False),
        ("https://host/a", "https://host/%61", False),
        ("https://host/a", "https://host/", False),
        ("https://host", "https://host/a", True),
        ("https://HOST", "https://host:443/a", True),
        ("https://host", "https://host:8443/a", False),
        ("https://host", "http://host/a", False),
        ("https://host", "http://host:443/a", False),
        ("https://host", "https://host.evil/a", False),
        ("https://host", "https://sub.host/a", False),
        ("s3://bucket/a", "s3://bucket/a/b", True),
        ("s3://bucket/a", "s3://bucket-2/a/b", False),
        ("s3://bucket", "gs://bucket/a", False),
        ("hf://org", "hf://org/name@main", True),
        ("hf://org/", "hf://Org/name", True),
        ("hf://org", "hf://organization/name", False),
        ("hf://org/name", "hf://org/name@v1", True),
        ("hf://org/name", "hf://org/name-2", False),
        ("hf://", "hf://org/name", True),
        ("hf://", "https://org/name", False),
    ],
)
def test_prefixes(prefix: str, url: str, allowed: bool) -> None:
    rules = SourceRules(None, ("https://other/", prefix), 1)
    if allowed:
        rules.check(parse(url))
    else:
        with pytest.raises(SourceError, match="list of allowed sources") as caught:
            rules.check(parse(url))
        assert f"'{prefix}'" in caught.value.message


@pytest.mark.parametrize(
    "prefix", ["host", "https://", "https://host/?a", "file:///", "hf://o/n@v"]
)
def test_prefixes_that_are_none_are_refused_at_the_start(prefix: str) -> None:
    with pytest.raises(SourceError):
        SourceRules(Path("/"), (prefix,), 1)
