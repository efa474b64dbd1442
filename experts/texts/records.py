"""Generated sentences about people, and the JSON record in them: what `json` learns."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from experts.texts.example import Example, Split
from experts.texts.people import (
    FIRST_NAMES,
    LAST_NAMES,
    UNSEEN_FIRST_NAMES,
    UNSEEN_LAST_NAMES,
)

CITIES = (
    *("Paris", "London", "Berlin", "Madrid", "Oslo", "Vienna", "Lisbon", "Dublin", "Prague"),
    *("Warsaw", "Athens", "Helsinki", "Boston", "Denver", "Toronto", "Sydney", "Cairo", "Nairobi"),
)
OTHER_CITIES = ("Rome", "Geneva", "Seattle", "Lima", "Mumbai", "Osaka", "Riga", "Tunis")
JOBS = (
    *("teacher", "nurse", "baker", "engineer", "farmer", "pilot", "lawyer", "chemist", "painter"),
    *("plumber", "carpenter", "dentist", "cook", "driver", "librarian"),
)
OTHER_JOBS = ("gardener", "tailor", "surgeon", "journalist", "mechanic", "musician")
SENTENCES = (
    "{name}, {age}, is a {job} in {city}.",
    "{name} is a {age}-year-old {job} who lives in {city}.",
    "In {city} we met {name}, a {job} aged {age}.",
    "The {job} {name} turned {age} last week at home in {city}.",
    "At {age}, {name} still works as a {job} in {city}.",
)
OTHER_SENTENCES = (
    "{name} from {city} is {age} and earns a living as a {job}.",
    "Our {job}, {name}, moved to {city} at the age of {age}.",
)
WORDINGS = (
    "Extract the person as JSON: {sentence}",
    "Return a JSON record of this sentence. {sentence}",
    "Turn this into JSON: {sentence}",
)
PARAPHRASES = (
    "{sentence} Give me that as a JSON object.",
    "Parse the following text and answer with JSON only. {sentence}",
    "Who is this? Reply in JSON. {sentence}",
)


def example(
    rng: random.Random, split: Split, names: tuple[Sequence[str], Sequence[str]] | None = None
) -> Example:
    """Return a sentence to extract from, and its record; `names` replaces the split's names."""
    other = split is Split.PARAPHRASED
    first, last = names or (
        (UNSEEN_FIRST_NAMES, UNSEEN_LAST_NAMES) if other else (FIRST_NAMES, LAST_NAMES)
    )
    record = {
        "name": f"{rng.choice(first)} {rng.choice(last)}",
        "age": rng.randint(18, 79),
        "job": rng.choice(OTHER_JOBS if other else JOBS),
        "city": rng.choice(OTHER_CITIES if other else CITIES),
    }
    sentence = rng.choice(OTHER_SENTENCES if other else SENTENCES).format(**record)
    prompt = rng.choice(PARAPHRASES if other else WORDINGS).format(sentence=sentence)
    return Example(prompt, json.dumps(record))
