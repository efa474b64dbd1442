"""What the adapters learn is right, and what they are measured on was not learned."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import experts
from experts.cache import PackageUnavailable
from experts.evaluate import same_number, same_record
from experts.texts import corpus, people
from experts.texts.example import Example

GENERATED = ("json", "arithmetic")
MOST_MEGABYTES = 8  # all adapters together


@pytest.mark.parametrize("name", experts.EXAMPLES)
def test_examples_are_forty_different_prompts(name: str) -> None:
    prompts = experts.EXAMPLES[name].read_text(encoding="utf-8").splitlines()
    assert len(set(prompts)) == 40
    assert not any(prompt in other for prompt in prompts for other in _others(name))


def _others(name: str) -> list[list[str]]:
    return [
        path.read_text(encoding="utf-8").splitlines()
        for other, path in experts.EXAMPLES.items()
        if other != name
    ]


@pytest.mark.parametrize("name", GENERATED)
def test_generated_examples_are_what_the_generator_says(name: str) -> None:
    prompts = experts.EXAMPLES[name].read_text(encoding="utf-8").splitlines()
    assert prompts == corpus.example_prompts(name)


def test_sums_are_right() -> None:
    for example in corpus.training("arithmetic", 500) + corpus.paraphrased("arithmetic", 100):
        equations = re.findall(r"\d[\d +*/-]*(?:= [\d +*/-]*\d)+", example.text)
        assert equations, example
        for equation in equations:
            assert len({eval(side) for side in equation.split("=")}) == 1, example
        steps = re.search(r"(\d+)\. The answer is (\d+)\.$", example.text)
        assert steps is not None
        assert steps[1] == steps[2], example


def test_records_say_what_their_sentences_say() -> None:
    for example in corpus.training("json", 200) + corpus.paraphrased("json", 50):
        record = json.loads(example.text)
        assert list(record) == ["name", "age", "job", "city"]
        assert all(str(value) in str(example.prompt) for value in record.values())


@pytest.mark.parametrize("name", GENERATED)
def test_generated_questions_are_held_out(name: str) -> None:
    def numbers(example: Example) -> tuple[str, ...]:
        return tuple(re.findall(r"\d+", example.text))

    learned = corpus.training(name, corpus.LEARNED)
    held_out = corpus.held_out(name, 200)
    assert not {example.text for example in held_out} & {example.text for example in learned}
    if name == "arithmetic":
        assert not set(map(numbers, held_out)) & set(map(numbers, learned))
    text = " ".join(str(e.prompt) for e in corpus.paraphrased(name, 100))
    assert not any(re.search(rf"\b{known}\b", text) for known in people.FIRST_NAMES)


@pytest.mark.parametrize("name", sorted(set(experts.NAMES) - set(GENERATED)))
def test_texts_of_books_are_held_out(name: str) -> None:
    try:
        learned = {example.text for example in corpus.training(name, 3000)}
        texts = corpus.held_out(name, 60)
    except PackageUnavailable as error:
        pytest.skip(str(error))
    assert len({example.text for example in texts} & learned) == 0
    prompts = experts.EXAMPLES[name].read_text(encoding="utf-8").splitlines()
    assert not set(prompts) & set(corpus.held_out_prompts(name, 60))


def test_judges_are_strict() -> None:
    assert same_record('{"a": 1, "b": 2}', '{"b": 2, "a": 1}')
    assert not same_record('{"a": "1", "b": 2}', '{"b": 2, "a": 1}')
    assert not same_record('Here: {"b": 2, "a": 1}', '{"b": 2, "a": 1}')
    assert same_number("3 + 4 = 7. The answer is 7.", "The answer is 7.")
    assert not same_number("3 + 4 = 7. The answer is 70.", "The answer is 7.")
    assert not same_number("7", "The answer is 7.")


def test_adapters_are_small_and_name_no_path_of_a_machine() -> None:
    size = 0
    for name, folder in experts.ADAPTERS.items():
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct", name
        file = folder / "adapter_model.safetensors"
        size += file.stat().st_size
        assert {weight.dtype for weight in load_file(file).values()} == {torch.bfloat16}
    assert size <= MOST_MEGABYTES * 1e6
