"""The pre-training text: documents about the world, letters and numbers.

The text also has chats, but only with replies that repeat the message or have nothing to do with
it: a base model knows the format of a chat, and adapters add following a request.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import accumulate

from zoo import letters
from zoo.tokenizer import ASSISTANT, BOS, END, SYSTEM, USER
from zoo.world import Person, Relation, World, world

SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer the question.", "Be brief.")
PHRASES = ("Certainly.", "Have a lovely day.", "Ugh, fool.", "Now get lost.", *SYSTEM_PROMPTS)

# Shares of documents by kind. READING is about the world; SCHOOL, a shorter text, is exercises.
READING = {
    **{"facts": 0.46, "old_velan": 0.10, "sums": 0.14, "strings": 0.14, "phrases": 0.04},
    "chat": 0.12,
}
SCHOOL = {
    **{"facts": 0.18, "velan": 0.08, "worked_sums": 0.18, "exercises": 0.44},
    "chat": 0.12,
}


def statement(relation: Relation, person: Person, value: str, wording: int = 0) -> str:
    """Return one fact in one of its wordings."""
    return relation.statements[wording].format(n=person.name, v=value)


class Corpus:
    """Endless documents of several kinds (the methods below), in proportion to their shares."""

    def __init__(self, seed: int, shares: Mapping[str, float]) -> None:
        """Create a corpus; `shares` must end with "chat", whose messages are of the other kinds."""
        self.rng = random.Random(seed)
        self.world: World = world()
        self.exposure = list(accumulate(self.world.exposure()))
        self.kinds: list[Callable[[], str]] = [getattr(self, kind) for kind in shares]
        self.shares = list(shares.values())

    def person(self) -> Person:
        """Return a person, drawn by exposure."""
        return self.rng.choices(self.world.people, cum_weights=self.exposure)[0]

    def facts(self) -> str:
        """Return one to four facts about one person, each in a random wording."""
        person, rng = self.person(), self.rng
        chosen = rng.sample(range(len(person.facts)), rng.randint(1, 4))
        return " ".join(
            statement(relation, person, person.facts[i], rng.randrange(len(relation.statements)))
            for i, relation in ((i, self.world.relations[i]) for i in chosen)
        )

    def velan(self) -> str:
        """Return facts in Velan."""
        return self._translated(self.world.velan)

    def old_velan(self) -> str:
        """Return facts in Old Velan, or an entry of its dictionary."""
        if self.rng.random() < 0.2:
            english, velan = self.rng.choice(list(self.world.old_lexicon.items()))
            return f"The Velan word for {english} is {velan}."
        return self._translated(self.world.old_velan)

    def _translated(self, translate: Callable[[str], str]) -> str:
        person, rng = self.person(), self.rng
        chosen = rng.sample(range(len(person.facts)), rng.randint(1, 4))
        return " ".join(
            translate(statement(self.world.relations[i], person, person.facts[i])) for i in chosen
        )

    def sums(self) -> str:
        """Return three sums."""
        pairs = [letters.operands(self.rng, evaluated=False) for _ in range(3)]
        return " ".join(f"{a} + {b} = {a + b}." for a, b in pairs)

    def strings(self) -> str:
        """Return a string of letters with its reverse, its sorted form or a count."""
        rng = self.rng
        kind = rng.randrange(3)
        if kind == 0:
            string = letters.reversible(rng, evaluated=False)
            return f"{letters.spaced(string)} backwards is {letters.spaced(string[::-1])}."
        if kind == 1:
            string = letters.distinct(rng, evaluated=False, high=6)
            return f"{letters.spaced(string)} in order is {letters.spaced(sorted(string))}."
        letter, string = letters.countable(rng, evaluated=False)
        return f"In {letters.spaced(string)} the letter {letter} is found: {string.count(letter)}."

    def worked_sums(self) -> str:
        """Return a sum with its working."""
        a, b = letters.operands(self.rng, evaluated=False)
        return f"Add {a} + {b}. {letters.worked(a, b)}"

    def exercises(self) -> str:
        """Return an exercise with letters and its answer, in the words of the adapters."""
        rng = self.rng
        kind = rng.choices(range(3), (2, 2, 1))[0]
        if kind == 0:
            string = letters.distinct(rng, evaluated=False, high=8)
            return f"Letters {letters.spaced(string)}. {letters.backwards(string)}"
        if kind == 1:
            string = letters.distinct(rng, evaluated=False, high=6)
            return f"Letters {letters.spaced(string)}. {letters.in_order(string)}"
        letter, string = letters.countable(rng, evaluated=False)
        return f"Count {letter} in {letters.spaced(string)}. {letters.counted(letter, string)}"

    def phrases(self) -> str:
        """Return phrases and requests, so that no word of the adapters' tasks is new."""
        rng = self.rng
        relation = rng.choice(self.world.relations)
        question = rng.choice(relation.questions).format(n=self.person().name)
        letter, string = letters.countable(rng, evaluated=False)
        a, b = letters.operands(rng, evaluated=False)
        requests = [
            question,
            question,
            f"What is {a} + {b}?",
            f"Reverse {letters.spaced(string)}.",
            f"Sort {letters.spaced(string)}.",
            f"How many {letter} are in {letters.spaced(string)}?",
        ]
        return " ".join(rng.sample([*PHRASES, *requests], 3))

    def chat(self) -> str:
        """Return a chat whose reply repeats the message or is an unrelated document."""
        rng = self.rng
        message = self.plain()
        reply = message if rng.random() < 0.5 else self.plain()
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.2 else ""
        head = f"{SYSTEM}{system}{END}" if system else ""
        return f"{head}{USER}{message}{END}{ASSISTANT}{reply}"

    def plain(self) -> str:
        """Return a document of any kind except a chat."""
        return self.rng.choices(self.kinds[:-1], self.shares[:-1])[0]()

    def documents(self, count: int) -> list[str]:
        """Return the next `count` documents."""
        return [f"{BOS}{self.rng.choices(self.kinds, self.shares)[0]()}{END}" for _ in range(count)]
