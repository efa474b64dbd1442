"""Gates are trained on what they will see: the zoo's adapters, distinguished by their answers."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import zoo
from adapters.inspection.inspect import inspect
from clients.cli.main import main
from composer.fields import BASE
from composer.gate_training.examples import read_examples
from composer.gate_training.fit import fit
from composer.gate_training.hidden_states import HiddenStates, Reading
from composer.gate_training.train import train_gate
from composer.mixtures.gate_file import GateError, fingerprint, load_gate
from composer.reference.oracle import Oracle
from zoo.tasks import tasks

NAMES = ("count", "sort")
TOKENIZER = AutoTokenizer.from_pretrained(zoo.BASE)


def write_examples(folder: Path, name: str, count: int) -> Path:
    """Questions and answers of a task."""
    rng = random.Random(name)
    lines = []
    for _ in range(count):
        example = tasks()[name].sample(rng, False)
        line = {"messages": example.messages, "answer": example.answer}
        lines.append(json.dumps(line))
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("examples")
    return {name: write_examples(folder, name, 25) for name in NAMES}


def test_the_command_from_end_to_end(
    files: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "gate.safetensors"
    words = ["router", "train", "--base", str(zoo.BASE), "--output", str(output)]
    words += ["--adapters", *(f"{name}={zoo.ADAPTERS[name]}" for name in NAMES)]
    words += ["--examples", *(f"{name}={path}" for name, path in files.items())]
    assert main(words) == 0
    gate = load_gate(output)
    gate.check_base(fingerprint(zoo.BASE), 256)
    assert gate.classes == (BASE, *NAMES)
    digests = {name: inspect(zoo.ADAPTERS[name], name).digest for name in NAMES}
    assert gate.digests == {BASE: None, **digests}
    assert float(gate.metadata["accuracy"]) > 0.95
    printed = capsys.readouterr().out
    assert "count: " in printed
    assert gate.digest in printed
    assert main(words) == 0
    assert load_gate(output).digest == gate.digest, "the same examples give the same gate"


def test_states_are_what_the_output_layer_reads(files: Mapping[str, Path]) -> None:
    """The base model up to a position, the adapter from there on; also where rows are filled up."""
    examples = read_examples(files["sort"], TOKENIZER, 3, 100)
    model = HiddenStates(zoo.BASE, {"sort": zoo.ADAPTERS["sort"]})
    oracle = Oracle(zoo.BASE, {"sort": zoo.ADAPTERS["sort"]})
    batch_sizes: list[int] = []
    for since in (0, 4, 10**9):
        readings = [Reading(e.tokens, since, e.positions()) for e in examples]
        found = dict(model.under("sort", readings, batch_sizes.append))
        assert sum(batch_sizes) == len(found) == 3
        batch_sizes.clear()
        for i, example in enumerate(examples):
            choices = [None if p < since else "sort" for p in range(len(example.tokens))]
            _, hidden = oracle.switched(example.tokens, [], choices)
            at = example.positions()
            torch.testing.assert_close(found[i], hidden[at.start : at.stop], rtol=1e-4, atol=1e-4)
    alone = dict(model.under(None, readings, batch_sizes.append))
    assert all(torch.equal(alone[i], found[i]) for i in range(3))


@pytest.mark.parametrize("name", ["double", "train", "a.b", "Ünïcode 1"])
def test_an_adapter_may_have_any_name(name: str, files: Mapping[str, Path]) -> None:
    """Also one that PEFT could not use: a method of every module, or one with a full stop."""
    [example, _, _] = read_examples(files["sort"], TOKENIZER, 3, 100)
    reading = Reading(example.tokens, 0, example.positions())
    plain = HiddenStates(zoo.BASE, {"sort": zoo.ADAPTERS["sort"]})
    other = {name: zoo.ADAPTERS["sort"], "count": zoo.ADAPTERS["count"]}
    [(_, expected)] = plain.under("sort", [reading], lambda _: None)
    [(_, found)] = HiddenStates(zoo.BASE, other).under(name, [reading], lambda _: None)
    assert torch.equal(found, expected)
    oracle = Oracle(zoo.BASE, other)
    under = oracle.logits(name, example.tokens)
    assert not torch.equal(under, oracle.logits(None, example.tokens))


def test_the_fit_finds_what_separates() -> None:
    """Classes of unequal size and features of unequal scale; a class without states stays out."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0] * 900 + [2] * 60)
    states = torch.randn(960, 5, generator=generator) * torch.tensor([1, 1, 1, 1, 1000.0])
    states[labels == 2, 1] += 8
    linear = fit(states, labels, 3, lambda done: None)
    right = linear(states).argmax(-1) == labels
    assert float(right[labels == 0].float().mean()) > 0.98
    assert float(right[labels == 2].float().mean()) > 0.98


def test_a_base_without_examples_is_never_chosen(files: Mapping[str, Path]) -> None:
    examples = {name: read_examples(files[name], TOKENIZER, 10, 100) for name in NAMES}
    paths = {name: zoo.ADAPTERS[name] for name in NAMES}
    steps: list[tuple[int, int, str]] = []
    trained = train_gate(zoo.BASE, paths, {}, examples, lambda *step: steps.append(step))
    hidden = np.random.default_rng(0).normal(size=(50, 256)).astype(np.float32)
    assert trained.gate.logits(hidden).argmax(-1).min() == 1
    assert steps[0] == (0, steps[-1][1], "loading the model")
    assert steps[-1][0] == steps[-1][1], "the bar ends full"
    assert trained.gate.digests == {BASE: None, "count": None, "sort": None}
    assert 0 < trained.held_out < trained.learned


LINES = (
    "Sort d b a c",
    '{"prompt": "<|bos|>Sort d", "answer": " b a c"}',
    '{"messages": [{"role": "user", "content": "Sort d"}], "answer": "d c"}',
    '{"messages": [{"role": "user", "content": "d"}], "prefix": "a b", "answer": " c d"}',
    '{"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "a b"}]}',
)


@pytest.mark.parametrize("line", LINES)
def test_examples(line: str, tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text(f"{line}\n\n{line}\n")
    one, other = read_examples(path, TOKENIZER, 5, 100)
    assert one == other
    whole = TOKENIZER.decode(one.tokens)
    answer = TOKENIZER.decode(one.tokens[one.answer :])
    assert whole.endswith(answer)
    given: dict[str, Any] = json.loads(line) if line.startswith("{") else {"answer": line}
    wanted = given.get("answer") or given["messages"][-1]["content"]
    assert answer == wanted
    assert one.positions() == range(max(one.answer - 2, 0), len(one.tokens) - 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 examples"),
        ("Sort d b a c", "has 1 examples"),
        ("{x", "line 1 begins like JSON"),
        ('{"answer": "a b c d"}', "needs either 'prompt' or 'messages'"),
        ('{"prompt": "a", "answer": ""}', "has no text for 'answer'"),
        ('{"prompt": "a", "answer": "b", "label": 3}', "unknown field 'label'"),
        ('{"prompt": "a", "prefix": "x", "answer": "b"}', "has both 'prefix' and 'prompt'"),
        ('{"messages": "a", "answer": "b"}', "not a list of objects"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "nor a last message of the assistant"),
        ('{"messages": [{"role": "x", "content": "a"}], "answer": "b"}', "chat template"),
        ("a", "no answer within 100 tokens"),
    ],
)
def test_examples_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text(text)
    with pytest.raises(GateError, match=message):
        read_examples(path, TOKENIZER, 5, 100)


def test_what_is_refused_by_the_command(
    files: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["router", "train", "--base", str(zoo.BASE), "--output", str(tmp_path / "g")]
    words += ["--adapters", f"sort={zoo.ADAPTERS['sort']}", "--examples"]
    assert main([*words, f"count={files['count']}"]) == 1
    assert "adapter 'sort' has no examples" in capsys.readouterr().err
    assert main([*words, f"sort={tmp_path / 'missing'}"]) == 1
    assert "missing" in capsys.readouterr().err
    assert main([*words, *(f"sort={files['sort']}" for _ in range(2))]) == 2
    assert "twice" in capsys.readouterr().err
    assert not (tmp_path / "g").exists()
