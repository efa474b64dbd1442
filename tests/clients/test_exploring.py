"""What `composer explore` makes of samples: their order, what counts as a finding, the words."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from clients.cli.exploring.openings import REQUESTS, Opening, openings
from clients.cli.exploring.ranking import distinctive, rank
from clients.cli.exploring.samples import Sample


def sample(text: str, *gains: float) -> Sample:
    """A sample whose tokens are its words, and end with the last gain."""
    words = [f" {word}" for word in text.split()]
    values = (*gains, *[gains[-1]] * (len(words) - len(gains)))
    base = tuple(-5.0 for _ in words)
    tuned = tuple(-5.0 + gain for gain in values)
    return Sample(Opening("Hello."), text, tuple(words), tuned, base)


def test_the_largest_difference_comes_first() -> None:
    low = sample("one two three four five six seven eight", 0.5)
    high = sample("a b c d e f g h", 3.0)
    assert [found.gain for found in rank([low, high])] == [3.0, 0.5]


def test_alike_and_short_samples_are_left_out() -> None:
    best = sample("and it came to pass that he went", 3.0)
    alike = sample("And it came to pass that she went", 2.0)
    other = sample("a b c d e f g h", 1.0)
    short = sample("thou shalt not", 9.0)
    assert rank([alike, other, short, best]) == [best, other]


def test_words_that_the_adapter_prefers() -> None:
    """A frequent word that gains a little each time is none of them."""
    first = sample("the thou the old the new the way", 0.5, 4.0, 0.5)
    second = sample("the day the thou the night the end", 0.5, 0.5, 0.5, 4.0, 0.5)
    [word] = distinctive([first, second], 5)
    assert (word.text, word.samples) == ("thou", 2)
    assert word.gain == pytest.approx(4.0)


def test_a_word_of_several_tokens() -> None:
    of_tokens = Sample(
        Opening("Hello."),
        "un known, known",
        (" un", "known", ",", " known"),
        (-1.0, -1.0, -1.0, -1.0),
        (-3.0, -4.0, -1.0, -1.0),
    )
    [word] = distinctive([of_tokens], 5)
    assert word.text == "unknown"
    assert word.gain == pytest.approx(5.0)


def test_nothing_to_rank() -> None:
    assert rank([]) == []
    assert distinctive([], 5) == []


def test_beginnings_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "begin.txt"
    file.write_text("Who are you?\n\nWhere is it?\n")
    assert [b.text for b in openings(file, plain=False)] == ["Who are you?", "Where is it?"]
    assert all(b.plain for b in openings(None, plain=True))
    assert {b.text for b in openings(None, plain=False)} > {*REQUESTS}
    file.write_text("\n")
    with pytest.raises(typer.TyperException, match="no openings"):
        openings(file, plain=False)
