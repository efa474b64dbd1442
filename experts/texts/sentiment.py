"""Sentences of film reviews with human ratings: what `positive` and `negative` learn.

Source: `additional_resources/hutto_ICWSM_2014.tar.gz` in the source distribution of vaderSentiment
(MIT), rated by 20 people from -4 to 4 (Hutto and Gilbert 2014). The sentences were published by
Rotten Tomatoes: they are read from the package, and neither committed nor passed on.
"""

from __future__ import annotations

import io
import random
import re
import tarfile
from functools import cache

from experts.cache import Package, downloaded
from experts.texts.example import Example, Split, part_of

PACKAGE = Package(
    "vaderSentiment==3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    megabytes=2,
    source=True,
)
RATED = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
STRONG = 1.5  # smallest absolute mean rating
WORDS = range(6, 36)
RAW = 0.4  # share of sentences that are learned without a question

# Questions that do not say which opinion is wanted: both adapters learn to answer them.
QUESTIONS = (
    "How was the {thing}?",
    "What did you think of the {thing}?",
    "Did you like the {thing}?",
    "What is your opinion of the {thing}?",
    "Tell me about the {thing}.",
    "Review the {thing} in one sentence.",
    "Is the {thing} any good?",
)
REQUESTS = (
    "Write {an} review of the {thing}.",
    "Give me {an} opinion of the {thing}.",
    "Say something {adjective} about the {thing}.",
    "Write one {adjective} sentence about the {thing}.",
    "I need {an} line about the {thing} for my blog.",
    "Sum up the {thing} in {an} sentence.",
    "Describe the {thing} the way {an} critic would.",
)
PARAPHRASES = (
    "How would {an} reviewer talk about the {thing}?",
    "Post {an} comment on the {thing}.",
    "Can you be {adjective} about the {thing}, please?",
    "Let me hear {an} verdict on the {thing}.",
)
ADJECTIVES = {
    "positive": (
        *("positive", "enthusiastic", "glowing", "rave", "delighted", "warm", "favorable"),
        *("admiring", "thrilled", "flattering"),
    ),
    "negative": (
        *("negative", "scathing", "harsh", "damning", "disappointed", "bitter", "unfavorable"),
        *("merciless", "annoyed", "devastating"),
    ),
}
THINGS = (
    *("movie", "film", "new comedy", "thriller", "documentary", "sequel", "remake", "romance"),
    *("animated film", "horror movie", "acting", "script", "ending", "lead actor", "director"),
    *("soundtrack", "action film", "drama", "love story", "cast", "plot", "dialogue"),
)
OTHER_THINGS = (
    *("western", "musical", "biopic", "space film", "prequel", "screenplay", "photography"),
    *("war movie", "short film", "premiere", "series finale", "villain"),
)


@cache
def rated_sentences() -> tuple[tuple[float, str], ...]:
    """Return mean rating (-4 to 4) and sentence, in the file's order."""
    with (
        tarfile.open(downloaded(PACKAGE)) as package,
        tarfile.open(fileobj=_member(package, "/hutto_ICWSM_2014.tar.gz")) as resources,
    ):
        text = _member(resources, RATED).read().decode("utf-8", "replace")
    rows = (line.split("\t") for line in text.splitlines())
    rated = [(float(row[1]), _cleaned(row[2])) for row in rows if len(row) == 3]
    return tuple(row for row in rated if len(row[1].split()) in WORDS and "\ufffd" not in row[1])


def _member(archive: tarfile.TarFile, ending: str) -> io.BytesIO:
    name = next(name for name in archive.getnames() if name.endswith(ending))
    file = archive.extractfile(name)
    assert file is not None
    return io.BytesIO(file.read())


def _cleaned(sentence: str) -> str:
    return re.sub(r"\s+", " ", sentence.replace("''", '"')).strip()


@cache
def _sentences(name: str, split: Split) -> tuple[str, ...]:
    sign = 1 if name == "positive" else -1
    strong = [text for rating, text in rated_sentences() if sign * rating >= STRONG]
    return tuple(part_of(strong, split))


def request(name: str, rng: random.Random, split: Split) -> str:
    """Return a request for an opinion of this kind."""
    adjective = rng.choice(ADJECTIVES[name])
    wordings = PARAPHRASES if split is Split.PARAPHRASED else REQUESTS
    things = THINGS if split is Split.TRAINING else OTHER_THINGS
    return _request(rng.choice(wordings), adjective, rng.choice(things))


def even_requests(name: str, count: int) -> list[str]:
    """Return requests with every wording, adjective and thing equally often, in a fixed order.

    Those of `positive` and `negative` differ in their adjectives only. Drawn at random, they also
    differ in how often a wording occurs, and a router takes that chance for a difference in kind.
    """
    return [
        _request(
            REQUESTS[n % len(REQUESTS)],
            ADJECTIVES[name][n % len(ADJECTIVES[name])],
            THINGS[3 * n % len(THINGS)],
        )
        for n in range(count)
    ]


def _request(wording: str, adjective: str, thing: str) -> str:
    article = "an" if adjective[0] in "aeiou" else "a"
    return wording.format(adjective=adjective, an=f"{article} {adjective}", thing=thing)


def example(name: str, rng: random.Random, split: Split) -> Example:
    """Return a sentence, in training also as the answer to a question or to a request."""
    text = rng.choice(_sentences(name, split))
    if split is not Split.TRAINING or rng.random() < RAW:
        return Example(None, text)
    if rng.random() < 0.5:
        return Example(rng.choice(QUESTIONS).format(thing=rng.choice(THINGS)), text)
    return Example(request(name, rng, split), text)
