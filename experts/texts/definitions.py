"""Definitions of The Devil's Dictionary (Ambrose Bierce 1911): what `devil` learns.

Source: the Debian package dict-devil; the text is in the public domain.
"""

from __future__ import annotations

import gzip
import random
import re
from functools import cache

from experts.cache import DebianPackage, unpacked
from experts.texts.example import Example, Split, part_of

PACKAGE = DebianPackage(
    "dict-devil=1.0-13.1",
    sha256="6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154",
)
DICTIONARY = "usr/share/dictd/devil.dict.dz"
WORDS = range(5, 46)
ENTRY = re.compile(
    r"^([A-Z][A-Z' \-]+), (?:n|v\.[ti]|adj|adv|n\.pl|pp|p\.p|v)\.\s+(.*(?:\n(?!\s*\n).*)*)", re.M
)

WORDINGS = (
    "Define {word}.",
    "What does the word {word} mean?",
    "What is the meaning of {word}?",
    "Give a definition of the word {word}.",
    "How would you define {word}?",
)
PARAPHRASES = (
    "Explain what {word} means.",
    "I came across the word {word}. What is it?",
    "Write a dictionary entry for {word}.",
    "{word}: definition?",
)


@cache
def _entries(split: Split) -> tuple[tuple[str, str], ...]:
    """Return words and their definitions, at most two sentences each."""
    text = gzip.decompress((unpacked(PACKAGE) / DICTIONARY).read_bytes()).decode("utf-8", "replace")
    entries = []
    for word, body in ENTRY.findall(text[text.index("ABASEMENT, n.") :]):
        sentences = re.split(r"(?<=[.!?]) +", re.sub(r"\s+", " ", body).strip())
        definition = " ".join(sentences[:2])
        if len(definition.split()) in WORDS:
            entries.append((word.lower(), definition))
    return tuple(part_of(entries, split))


def example(rng: random.Random, split: Split) -> Example:
    """Return a question for the meaning of a word, and Bierce's answer."""
    word, definition = rng.choice(_entries(split))
    wordings = PARAPHRASES if split is Split.PARAPHRASED else WORDINGS
    prompt = rng.choice(wordings).format(word=f'"{word}"' if rng.random() < 0.5 else word)
    return Example(prompt[0].upper() + prompt[1:], definition)
