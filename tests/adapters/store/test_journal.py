"""The journal file: whole lines only, in order, by one writer at a time."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.disk import locked
from adapters.errors import AdapterStoreError
from adapters.store.journal import Entry, Journal
from adapters.store.policy import Policy
from adapters.store.profile import EMPTY_PROFILE, Profile
from adapters.store.version import Action, Version

DIGEST = "0123456789abcdef" * 4
ENTRY = Version(
    0, "polite", 0, Action.PUBLISH, DIGEST, Policy(), "2026-01-01T00:00:00.000+00:00", "tests", {}
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Journal.create(tmp_path / "journal.jsonl")
    return tmp_path / "journal.jsonl"


def opened(file: Path) -> Journal:
    return Journal(file, file.parent / "lock")


def append(journal: Journal, alias: str = "polite", **changes: Any) -> Version:
    with journal.writing():
        return journal.append(replace(ENTRY, alias=alias, **changes))


def test_entries_come_back_as_they_went(file: Path) -> None:
    journal = opened(file)
    policy = Policy(negative=False, keys=("a" * 64,))
    origin = {"source": 'hf://org/"näme"\n\u2028', "weights": [0.5, None]}
    first = append(journal, policy=policy, origin=origin, actor="Zoë\r\n")
    append(journal, "rude")
    append(journal, action=Action.DELETE, digest=None)
    assert (first.policy, first.origin, first.actor) == (policy, origin, "Zoë\r\n")

    again = opened(file)
    assert again.history("polite") == journal.history("polite")
    assert again.history("polite")[0] == first
    assert [(v.sequence, v.number) for v in again.history("polite")] == [(1, 1), (3, 2)]
    assert [(v.sequence, v.number) for v in again.history("rude")] == [(2, 1)]
    assert again.history("nobody") == ()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        json.loads(json.dumps(version.to_json()))
        for version in sorted(
            (v for alias in again.aliases() for v in again.history(alias)),
            key=lambda v: v.sequence,
        )
    ]


def test_entries_of_before_there_were_profiles_are_read(file: Path) -> None:
    first = append(opened(file), profile=Profile(examples=("Be kind?",), description="manners"))
    assert opened(file).history("polite") == (first,)
    entry = json.loads(file.read_text())
    del entry["profile"]
    file.write_text(json.dumps(entry) + "\n")
    assert opened(file).history("polite") == (replace(first, profile=EMPTY_PROFILE),)
    entry["profile"] = {"examples": [""]}
    file.write_text(json.dumps(entry) + "\n")
    with pytest.raises(AdapterStoreError, match=r"line 1 .* profile\.examples\[0\]"):
        opened(file)


OLD_LINES = (
    """{"sequence":1,"alias":"polite","number":1,"action":"publish","digest":"DIGEST","policy":"""
    """{"compositions":true,"negative":false,"keys":["sha256:DIGEST"]},"time":"2026-01-01T00:00:"""
    """00.000+00:00","actor":"admin at 127.0.0.1","origin":{"source":"polite","weights":[0.5,"""
    """null]},"profile":{"examples":["Be kind?","\\ud800"],"description":"manners"}}""",
    """{"sequence":2,"composition":"kind","number":1,"action":"publish","content":{"members":["""
    """{"model":"base","weight":1.5,"prompt":"\\udfff"}]},"owner":"admin","time":"2026-01-01T00:"""
    """00:01.000+00:00","actor":"admin","origin":{}}""",
    """{"sequence":3,"alias":"polite","number":2,"action":"delete","digest":null,"policy":"""
    """{"compositions":true,"negative":true,"keys":null},"time":"2026-01-01T00:00:02.000+00:00","""
    """"actor":"admin","origin":{},"profile":{"examples":null,"description":null}}""",
    """{"sequence":4,"composition":"kind","number":2,"action":"rollback","content":"base + rude","""
    """"owner":"admin","time":"2026-01-01T00:00:03.000+00:00","actor":"admin","origin":"""
    """{"rollback_to":1}}""",
)
"""Written by version 0.1.0."""


def test_the_format_on_disk_stays(file: Path) -> None:
    """What 0.1.0 wrote is read, and written again byte for byte."""
    lines = [line.replace("DIGEST", DIGEST) for line in OLD_LINES]
    file.write_text("".join(line + "\n" for line in lines))
    journal = opened(file)
    entries: list[Entry] = [*journal.history("polite"), *journal.composition_history("kind")]
    entries.sort(key=lambda entry: entry.sequence)
    written = [json.dumps(entry.to_json(), separators=(",", ":")) for entry in entries]
    assert written == lines
    assert journal.history("polite")[0].profile.texts[0] == "Be kind?"


def test_an_entry_is_on_disk_before_it_counts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is flushed before `append` returns, a new journal together with its folder."""
    flushed: list[tuple[int, int, int]] = []
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        fsync(descriptor)
        there = os.fstat(descriptor)
        flushed.append((there.st_dev, there.st_ino, there.st_size))

    monkeypatch.setattr(os, "fsync", counted)
    journal = opened(file)
    assert not flushed
    append(journal)
    there = file.stat()
    assert (there.st_dev, there.st_ino, there.st_size) in flushed, "the whole line, after its write"
    flushed.clear()
    new = file.parent / "new" / "journal.jsonl"
    new.parent.mkdir()
    Journal.create(new)
    assert {inode for _, inode, _ in flushed} == {new.stat().st_ino, new.parent.stat().st_ino}


def test_refresh_returns_what_others_wrote(file: Path) -> None:
    mine, other = opened(file), opened(file)
    first = append(other)
    second = append(other, "rude")
    assert mine.history("polite") == ()
    assert mine.refresh() == (first, second)
    assert mine.history("polite") == (first,)
    assert mine.refresh() == ()
    assert opened(file).refresh() == (), "what was there at the start is not news"


def test_a_write_of_our_own_does_not_swallow_the_news(file: Path) -> None:
    mine, other = opened(file), opened(file)
    foreign = append(other)
    own = append(mine)  # must read the other's entry to number its own
    assert own.number == 2
    assert mine.refresh() == (foreign,)
    assert mine.refresh() == ()
    assert other.refresh() == (own,)


def test_reading_does_not_wait_for_writers(file: Path) -> None:
    journal = opened(file)
    entry = append(journal)
    with locked(file.parent / "lock"):
        writer = threading.Thread(target=lambda: append(journal), daemon=True)
        writer.start()
        writer.join(timeout=0.05)
        assert writer.is_alive()
        reader = threading.Thread(target=journal.refresh, daemon=True)
        reader.start()
        reader.join(timeout=10)
        assert not reader.is_alive(), "nothing happened, so there is nothing to wait for"
        assert journal.history("polite") == (entry,)
    writer.join(timeout=10)
    assert len(journal.history("polite")) == 2


def test_nobody_reads_while_somebody_writes(file: Path) -> None:
    """A write may be taken back as long as its writer holds the lock."""
    reader, writer = opened(file), opened(file)
    news: list[Entry] = []
    with locked(file.parent / "lock"):
        before = file.read_bytes()
        file.write_bytes(before + b"not to stay\n")
        waiting = threading.Thread(target=lambda: news.extend(reader.refresh()))
        waiting.start()
        waiting.join(timeout=0.05)
        assert waiting.is_alive()
        file.write_bytes(before)
    waiting.join(timeout=10)
    assert news == []
    entry = append(writer)
    assert reader.refresh() == (entry,)


def test_a_torn_line_is_neither_read_nor_kept(file: Path) -> None:
    whole = append(opened(file))
    torn_at = file.stat().st_size
    append(opened(file), actor="killed while it wrote")
    text = file.read_bytes()
    for end in range(torn_at, len(text)):  # every place where a writer may be killed
        file.write_bytes(text[:end])
        reader = opened(file)
        assert reader.history("polite") == (whole,)
        next_one = append(opened(file), actor="next")
        assert reader.refresh() == (next_one,)
        assert opened(file).history("polite") == (whole, next_one)
        assert file.read_bytes().endswith(b'"description":null}}\n')


def test_a_reader_sees_a_torn_line_replaced_by_one_of_the_same_size(file: Path) -> None:
    entry = append(opened(file))
    line = file.read_bytes()
    file.write_bytes(b"x" * len(line))
    os.utime(file, ns=(0, 0))
    reader = opened(file)
    assert reader.history("polite") == ()
    file.write_bytes(line)
    os.utime(file, ns=(0, 0))
    assert reader.refresh() == (entry,)


def edit(line: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(line) | changes).encode() + b"\n"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda line: b"\n", "Expecting value"),
        (lambda line: b"\xff" + line, "decode"),
        (lambda line: b"\0" * 20 + b"\n", "Expecting value"),
        (lambda line: line[:30] + b"\n", "Unterminated|delimiter|Expecting"),
        (lambda line: b"[]\n", "not an object with the fields"),
        (lambda line: b"{}\n", "sequence is missing"),
        (lambda line: edit(line, more=1), "more is not a field"),
        (lambda line: edit(line, sequence=7), "says that it is line 7"),
        (lambda line: edit(line, sequence=True), "sequence is true"),
        (lambda line: edit(line, number=1), "it is version 1 of a name at 1"),
        (lambda line: edit(line, number="2"), "number is '2'"),
        (lambda line: edit(line, action="burn"), "action is 'burn'"),
        (lambda line: edit(line, digest="abc"), "digest is 'abc'"),
        (lambda line: edit(line, digest=None), "digest is None"),
        (lambda line: edit(line, action="delete"), "after a delete"),
        (lambda line: edit(line, alias="../etc"), "alias is '../etc'"),
        (lambda line: edit(line, policy={"negative": 1}), "policy.negative is 1"),
        (lambda line: edit(line, actor=None), "actor is null"),
        (lambda line: edit(line, origin=[]), "origin is a list of 0"),
    ],
)
def test_damage_is_told_with_its_line(
    file: Path, damage: Callable[[bytes], bytes], problem: str
) -> None:
    journal = opened(file)
    for _ in range(3):
        append(journal)
    first, second, third = file.read_bytes().splitlines(keepends=True)
    for content, line in ((first + damage(second) + third, 2), (first + damage(second), 2)):
        file.write_bytes(content)
        with pytest.raises(AdapterStoreError, match=f"line {line} of .*{problem}"):
            opened(file)
        assert file.read_bytes() == content, "nobody mends what may be evidence"


def test_damage_stops_a_reader_where_it_was(file: Path) -> None:
    journal, reader = opened(file), opened(file)
    entry = append(journal)
    good = file.read_bytes()
    file.write_bytes(good + b"{}\n")
    for _ in range(2):
        with pytest.raises(AdapterStoreError, match="line 2"):
            reader.refresh()
        with pytest.raises(AdapterStoreError, match="line 2"):
            append(journal)
    file.write_bytes(good)
    assert reader.refresh() == (entry,)


def test_a_journal_that_lost_entries_is_refused(file: Path) -> None:
    journal = opened(file)
    append(journal)
    backup = file.read_bytes()
    append(journal)
    file.write_bytes(backup)
    for use in (journal.refresh, lambda: append(journal)):
        with pytest.raises(AdapterStoreError, match=r"was replaced: line 2 .* restart"):
            use()
    assert len(opened(file).history("polite")) == 1


def test_another_journal_in_its_place_is_refused(file: Path) -> None:
    journal = opened(file)
    append(journal)
    other = file.with_name("other")
    Journal.create(other)
    for number in range(3):
        append(opened(other), actor=f"somebody else {number}")
    other.rename(file)
    with pytest.raises(AdapterStoreError, match="was replaced: line 1"):
        journal.refresh()


def test_a_copy_in_its_place_is_followed(file: Path) -> None:
    journal = opened(file)
    append(journal)
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.rename(file)
    entry = append(opened(file))
    assert journal.refresh() == (entry,)


def test_without_its_file_it_says_so(file: Path) -> None:
    journal = opened(file)
    file.unlink()
    with pytest.raises(AdapterStoreError, match="No such file"):
        journal.refresh()
    with pytest.raises(AdapterStoreError, match="No such file"):
        append(journal)
    assert not file.exists()


def test_what_nobody_could_read_is_not_written(file: Path) -> None:
    journal = opened(file)
    for changes in ({"digest": "abc"}, {"alias": "a b"}, {"origin": {"weight": float("nan")}}):
        with pytest.raises(ValueError, match=r"abc|a b|JSON"):
            append(journal, **changes)
    assert file.read_bytes() == b""
    assert append(journal).sequence == 1
