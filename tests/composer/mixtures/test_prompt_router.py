"""The prompt router: the formula of the paper, from the definition of TF-IDF."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.mixtures.tfidf import PromptSimilarity, terms

EXAMPLES = {
    "sums": ["What is 3 + 4?", "What is 51 + 8?", "Add 1 and 2."],
    "people": ["Where does Ann live?", "What is the job of Bob?"],
    "silent": [],
    "blank": ["", " \n"],
}


def test_weights_are_those_of_the_formula() -> None:
    """Two experts, two words: computed here by hand."""
    router = PromptSimilarity({"a": ["cat cat dog", "cat"], "b": ["cat dog"]})
    idf = {"cat": math.log(4 / 4) + 1, "dog": math.log(4 / 3) + 1}  # in all three texts, and in two

    def unit(cat: float, dog: float) -> tuple[float, float]:
        length = math.hypot(cat * idf["cat"], dog * idf["dog"])
        return cat * idf["cat"] / length, dog * idf["dog"] / length

    first, second = unit(2, 1), unit(1, 0)
    centres = {"a": ((first[0] + second[0]) / 2, (first[1] + second[1]) / 2), "b": unit(1, 1)}
    text = unit(1, 3)
    scores = {name: math.exp(-(math.dist(text, c) ** 2) / 0.25) for name, c in centres.items()}
    expected = {name: score / sum(scores.values()) for name, score in scores.items()}
    assert router.weights("Dog, cat DOG dog", 0.25) == pytest.approx(expected, rel=1e-12)


def test_rare_words_count_more() -> None:
    router = PromptSimilarity({"a": ["go left", "go up"], "b": ["go home", "run left"]})
    # `left` is in one text of each; `go` is in two of a, one of b; `home` is only b's.
    weights = router.weights("go home", 0.1)
    assert weights["b"] > weights["a"]
    frequent = PromptSimilarity({"a": ["x y"] * 9, "b": ["x z"]}).weights("x z", 0.1)
    assert frequent["b"] > 0.9


def test_the_default_temperature_is_that_of_the_paper() -> None:
    router = PromptSimilarity(EXAMPLES)
    assert router.weights("What is 2?") == router.weights("What is 2?", 0.1)
    assert router.weights("What is 2?") != router.weights("What is 2?", 0.2)


def test_similar_prompts_go_to_their_expert() -> None:
    router = PromptSimilarity(EXAMPLES)
    assert router.names == {"sums", "people"}
    assert router.weights("What is 77 + 6?")["sums"] > 0.9
    assert router.weights("Where does Bob live?")["people"] > 0.9


def test_temperature() -> None:
    router = PromptSimilarity(EXAMPLES)
    hot, cold = (router.weights("What is 77 + 6?", t) for t in (1e3, 1e-3))
    assert hot["sums"] == pytest.approx(0.5, abs=1e-3)
    assert cold["sums"] == 1.0


def test_what_is_like_no_example_weighs_the_same() -> None:
    assert PromptSimilarity(EXAMPLES).weights("zzz") == {"people": 0.5, "sums": 0.5}
    assert PromptSimilarity(EXAMPLES).weights("") == {"people": 0.5, "sums": 0.5}


def test_of_some_experts_the_weights_are_shared_anew() -> None:
    examples = EXAMPLES | {"more": ["What is the time?"]}
    router = PromptSimilarity(examples)
    whole = router.weights("What is 2?")
    some = router.weights("What is 2?", names=["sums", "more"])
    assert some.keys() == {"sums", "more"}
    assert some["sums"] / some["more"] == pytest.approx(whole["sums"] / whole["more"])
    assert sum(some.values()) == pytest.approx(1)
    with pytest.raises(KeyError, match="silent"):
        router.weights("What?", names=["sums", "silent"])


def test_terms() -> None:
    assert terms("What's 12+3 in Ärger_x?") == {
        **dict.fromkeys(["what", "'", "s", "+", "in", "ärger", "_", "x", "?"], 1),
        "0": 2,
    }
    assert terms("東京 ok") == {"東": 1, "京": 1, "ok": 1}


TEXTS = st.lists(st.text("ab 1?"), max_size=3)


@given(st.dictionaries(st.sampled_from("pqrs"), TEXTS), st.text("abc 1?"), st.floats(1e-3, 1e3))
def test_weights_sum_to_one_whatever_the_examples(
    examples: dict[str, list[str]], text: str, temperature: float
) -> None:
    router = PromptSimilarity(examples)
    assert router.names == {name for name, texts in examples.items() if "".join(texts).strip()}
    if router.names:
        weights = router.weights(text, temperature)
        assert weights.keys() == router.names
        assert math.fsum(weights.values()) == pytest.approx(1)
        assert min(weights.values()) >= 0


def test_the_order_of_experts_and_texts_is_irrelevant() -> None:
    rng = random.Random(0)
    words = "abcdefgh"
    examples = {
        name: [" ".join(rng.choices(words, k=5)) for _ in range(20)] for name in ("x", "y", "z")
    }
    shuffled = {name: rng.sample(examples[name], k=20) for name in ("z", "x", "y")}
    one, other = (PromptSimilarity(e).weights("a b c") for e in (examples, shuffled))
    assert one == pytest.approx(other, rel=1e-12)
    assert PromptSimilarity(examples).weights("a b c") == one
