"""How like an expert's examples a text is: from the definition, and what follows from it."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from composer.mixtures.tfidf import PromptSimilarity

EXAMPLES = {
    "sums": ["What is 3 + 4?", "Add 51 and 8.", "What is 7 + 6 + 1?", "Add 1 and 2 and 9."],
    "people": ["Where does Ann live?", "What is the job of Bob?", "Where does Cid work?"],
}


def cosine(a: dict[str, float], b: dict[str, float]) -> float:
    products = [value * b.get(term, 0.0) for term, value in a.items()]
    return math.fsum(products) / (math.hypot(*a.values()) * math.hypot(*b.values()))


def vector(words: Sequence[str], others: Sequence[Sequence[str]]) -> dict[str, float]:
    """A text's TF-IDF vector by the frequencies in other texts; unknown words count as in one."""
    frequency = Counter(word for text in others for word in set(text))
    return {
        word: count * (math.log((1 + len(others)) / (1 + max(1, frequency[word]))) + 1)
        for word, count in Counter(words).items()
    }


def test_familiarity_is_that_of_the_definition() -> None:
    texts = {
        "a": ["cat dog", "cat owl", "cat dog eel"],
        "b": ["dog fox", "elk fox", "ape", "gnu fox"],
    }
    index = PromptSimilarity(texts)
    split = {name: [text.split() for text in of_one] for name, of_one in texts.items()}
    every = [words for of_one in split.values() for words in of_one]
    vectors = {name: [vector(words, every) for words in of_one] for name, of_one in split.items()}
    asked = vector(["cat", "fox", "hen", "fox"], every)
    expected = {}
    for name, of_one in split.items():
        own = []
        for n, words in enumerate(of_one):
            rest = list(every)
            rest.remove(words)
            left_out = vector(words, rest)
            own += [cosine(left_out, other) for m, other in enumerate(vectors[name]) if m != n]
        similar = [cosine(asked, example) for example in vectors[name]]
        expected[name] = (math.fsum(similar) / len(similar)) / (math.fsum(own) / len(own))
    assert index.familiarity("cat fox hen fox", texts) == pytest.approx(expected, rel=1e-12)


def test_only_the_ten_nearest_examples_count() -> None:
    alike = [f"sort {word}" for word in "abcdefghijk"]
    strange = [f"{word * 3} {word * 4} {word * 5}" for word in "nopqrstuvwxyz"]
    few, many = PromptSimilarity({"x": alike}), PromptSimilarity({"x": alike + strange})
    kept = few.familiarity("sort m", ["x"])["x"]
    assert kept > 0.9
    assert many.familiarity("sort m", ["x"])["x"] > kept


def test_what_has_nothing_in_common_is_foreign() -> None:
    index = PromptSimilarity(EXAMPLES)
    assert index.familiarity("Zebras yawn", ["people", "sums"]) == {"people": 0.0, "sums": 0.0}
    assert index.familiarity("", ["sums"]) == {"sums": 0.0}


def test_foreign_words_make_a_text_less_familiar() -> None:
    index = PromptSimilarity(EXAMPLES)
    texts = ["What is 2 + 5?", "What is 2 + 5, dear?", "What is 2 + 5, dear old friend of mine?"]
    found = [index.familiarity(text, ["sums"])["sums"] for text in texts]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 3
    # The weights compare experts, and those words speak for none of them.
    weights = [index.weights(text.replace(",", ""))["sums"] for text in texts[:2]]
    assert weights[0] == pytest.approx(weights[1])


def test_prompts_of_a_kind_are_told_from_others() -> None:
    rng = random.Random(0)
    names = ["".join(letters).title() for letters in itertools.product("bdfk", "aeio", "lmnrs")]
    homes = [f"Where does {name} live?" for name in names]
    goals = [
        f"Who taught {name} how to {verb}?" for name, verb in zip(names, names[::-1], strict=True)
    ]
    rng.shuffle(homes)
    index = PromptSimilarity({"homes": homes[:40], "sums": EXAMPLES["sums"]})
    own = [index.familiarity(text, ["homes"])["homes"] for text in homes[40:]]
    foreign = [index.familiarity(text, ["homes"])["homes"] for text in goals]
    assert min(own) > 0.9
    assert max(foreign) < 0.45


def test_a_single_text_is_taken_to_vary_as_the_examples_of_others() -> None:
    index = PromptSimilarity(EXAMPLES | {"counts": ["count on from a number"]})
    found = index.familiarity("Count on from a number", ["counts", "sums"])
    assert found["counts"] > 1
    alone = PromptSimilarity({"counts": ["count on from a number"]})
    assert alone.familiarity("Count on from a number", ["counts"]) == pytest.approx({"counts": 1.0})


def test_experts_without_examples_are_unknown() -> None:
    with pytest.raises(KeyError, match="gone"):
        PromptSimilarity(EXAMPLES).familiarity("What?", ["sums", "gone"])


def test_an_index_that_is_built_on_another_is_the_same() -> None:
    before = PromptSimilarity(EXAMPLES | {"old": ["Sort b a"]})
    changed = EXAMPLES | {"people": ["Where does Ann live?", "Who is Eve?"], "new": ["Hi there"]}
    built, fresh = PromptSimilarity(changed, before), PromptSimilarity(changed)
    for text in ("Where is Ann?", "What is 3 + 8?", "Sort b a", "Hi"):
        assert built.weights(text) == fresh.weights(text)
        assert built.familiarity(text, changed) == fresh.familiarity(text, changed)
