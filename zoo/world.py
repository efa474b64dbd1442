"""The invented world: people, facts about them, and the wordings of the facts.

All values follow from one seed, so that the world is code, not data. A fact has several wordings,
because a model that has read a fact in one wording only can repeat the text, but cannot be taught
to answer questions about it (Allen-Zhu and Li, "Physics of Language Models: Part 3.1", 2023).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

SEED = 20240917
PEOPLE = 240
HELD_OUT_EVERY = 4  # no training of an adapter asks about ranks 3, 7, 11, ...
VOWELS = "aeiou"
CONSONANTS = "bdfgklmnprstvz"


@dataclass(frozen=True)
class Relation:
    """One kind of fact. `{n}` stands for the person and `{v}` for the value."""

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]  # paraphrases; the first is the form of a chat answer
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Person:
    """A person; `rank` orders people by how often the text mentions them (0 = most often)."""

    rank: int
    name: str
    facts: tuple[str, ...]  # one value per relation, in the order of `World.relations`

    @property
    def held_out(self) -> bool:
        """Whether this person's facts appear in pre-training text only."""
        return self.rank % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


@dataclass(frozen=True)
class World:
    """People in the order of their ranks, and the languages that describe them."""

    relations: tuple[Relation, ...]
    people: tuple[Person, ...]
    lexicon: dict[str, str]  # English word -> Velan word; names and towns are not translated
    old_lexicon: dict[str, str]  # the same in Old Velan, which occurs in the first text only

    def velan(self, sentence: str) -> str:
        """Translate into Velan word for word; a final full stop stays."""
        return _translated(sentence, self.lexicon)

    def old_velan(self, sentence: str) -> str:
        """Translate into Old Velan word for word."""
        return _translated(sentence, self.old_lexicon)

    def exposure(self) -> list[float]:
        """Return how often the text mentions each person: a flattened Zipf law over ranks."""
        return [(person.rank + 20) ** -0.6 for person in self.people]


def _translated(sentence: str, lexicon: dict[str, str]) -> str:
    words = sentence.removesuffix(".").split(" ")
    stop = "." if sentence.endswith(".") else ""
    return " ".join(lexicon.get(word, word) for word in words) + stop


def _invented(rng: random.Random, shape: str, count: int, taken: set[str]) -> list[str]:
    """Return `count` new words of a shape such as "CVCV", and add them to `taken`."""
    words: list[str] = []
    while len(words) < count:
        word = "".join(rng.choice(CONSONANTS if c == "C" else VOWELS) for c in shape)
        if word not in taken:
            taken.add(word)
            words.append(word)
    return words


def _relations(towns: Sequence[str]) -> tuple[Relation, ...]:
    jobs = "baker farmer doctor teacher painter hunter tailor sailor miller judge barber potter "
    jobs += "singer dancer writer guard nurse clerk pilot cook"
    pets = "dog cat horse goat sheep duck hen rabbit parrot snake turtle mouse pig fox bear wolf"
    colours = "red blue green yellow black white brown pink purple grey"
    foods = "bread cheese soup rice fish honey plums nuts pears beans cake eggs corn figs mushrooms"
    instruments = "flute drum harp piano fiddle trumpet guitar bell horn lute"
    return (
        Relation(
            "home",
            tuple(towns),
            (
                "{n} lives in {v}.",
                "The home of {n} is in {v}.",
                "{n} has a house in {v}.",
                "You will find {n} in {v}.",
            ),
            ("Where does {n} live?", "In which town does {n} live?", "What is the home of {n}?"),
        ),
        Relation(
            "job",
            tuple(jobs.split()),
            (
                "{n} works as a {v}.",
                "The job of {n} is {v}.",
                "{n} earns money as a {v}.",
                "People know {n} as a {v}.",
            ),
            ("What is the job of {n}?", "What does {n} do for a living?", "What work does {n} do?"),
        ),
        Relation(
            "animal",
            tuple(pets.split()),
            (
                "{n} keeps a {v}.",
                "The animal of {n} is a {v}.",
                "{n} has a pet {v}.",
                "At home {n} looks after a {v}.",
            ),
            (
                "Which animal does {n} keep?",
                "What pet does {n} have?",
                "What is the animal of {n}?",
            ),
        ),
        Relation(
            "colour",
            tuple(colours.split()),
            (
                "{n} likes the colour {v}.",
                "The colour of {n} is {v}.",
                "{n} always wears {v}.",
                "The best colour for {n} is {v}.",
            ),
            (
                "Which colour does {n} like?",
                "What is the colour of {n}?",
                "What colour does {n} wear?",
            ),
        ),
        Relation(
            "food",
            tuple(foods.split()),
            (
                "{n} eats {v}.",
                "The food of {n} is {v}.",
                "{n} loves the taste of {v}.",
                "For dinner {n} wants {v}.",
            ),
            ("What does {n} eat?", "What is the food of {n}?", "Which food does {n} love?"),
        ),
        Relation(
            "instrument",
            tuple(instruments.split()),
            (
                "{n} plays the {v}.",
                "The instrument of {n} is the {v}.",
                "{n} makes music on the {v}.",
                "In the evening {n} takes out the {v}.",
            ),
            (
                "Which instrument does {n} play?",
                "What does {n} play?",
                "What is the instrument of {n}?",
            ),
        ),
    )


def _old_lexicon(
    rng: random.Random, relations: Sequence[Relation], taken: set[str]
) -> dict[str, str]:
    """Return an invented word for every English word of a chat answer except towns."""
    english: list[str] = []
    for relation in relations:
        english += [w for w in relation.statements[0].rstrip(".").split() if "{" not in w]
        english += relation.values if relation.name != "home" else ()
    unique = list(dict.fromkeys(english))
    return dict(zip(unique, _invented(rng, "VCVC", len(unique), taken), strict=True))


def _lexicon(relations: Sequence[Relation], old_lexicon: dict[str, str]) -> dict[str, str]:
    """Return Velan: the verbs of Old Velan, and English nouns with the ending -an."""
    nouns = {value for relation in relations for value in relation.values}
    return {e: f"{e}an" if e in nouns else old for e, old in old_lexicon.items()}


@cache
def world() -> World:
    """Return the world of the zoo, built once per process."""
    rng = random.Random(SEED)
    taken: set[str] = set()
    firsts = [w.capitalize() for w in _invented(rng, "CVCV", 40, taken)]
    lasts = [w.capitalize() for w in _invented(rng, "CVCVC", 60, taken)]
    towns = [w.capitalize() for w in _invented(rng, "CVCCV", 24, taken)]
    relations = _relations(towns)
    names = rng.sample([f"{first} {last}" for first in firsts for last in lasts], PEOPLE)
    people = tuple(
        Person(rank, name, tuple(rng.choice(relation.values) for relation in relations))
        for rank, name in enumerate(names)
    )
    old_lexicon = _old_lexicon(rng, relations, taken)
    return World(relations, people, _lexicon(relations, old_lexicon), old_lexicon)
