"""`composer distil` against the real server: its log-probabilities are those of the composition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from composer.reference.oracle import Oracle, OracleRow
from tests.server.command_line import Composer, write
from tests.support.live_server import LiveServer

FORMULA = "base + 0.5*polite - 0.5*rude"
PROMPTS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Where does Kuti Supiv live?"}], "completion": "x"},
    {"prompt": "Once upon a"},
    {"prompt": [5, 6, 7]},
]
TOP_K = {
    "members": [{"model": "base", "weight": 1}],
    "filters": [{"kind": "top_k", "model": "base", "value": 2}],
}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write(tmp_path / "prompts.jsonl", PROMPTS)


def distributions(oracle: Oracle, line: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Yields the composed log-probabilities at each place of an answer."""
    weights = {None: 1.0, "polite": 0.5, "rude": -0.5}
    prompt = tuple(line["prompt_token_ids"])
    rows = [OracleRow(weight, name, prompt) for name, weight in weights.items()]
    yield from oracle.composed(rows, (), line["token_ids"])[:-1].double().log_softmax(1)


def test_lines_have_the_likeliest_tokens_of_the_composition(
    composer: Composer,
    server: LiveServer,
    prompts: Path,
    zoo_base: Path,
    zoo_adapters: dict[str, Path],
) -> None:
    options = ("--top-k", 4, "--samples", 3, "--temperature", 2, "--seed", 5, "--max-tokens", 8)
    done = composer("distil", prompts, "--formula", FORMULA, *options)
    assert done.code == 0, done.err
    assert [(line["index"], line["sample"]) for line in done.lines] == [
        (index, sample) for index in range(3) for sample in range(3)
    ]
    oracle = Oracle(zoo_base, {name: zoo_adapters[name] for name in ("polite", "rude")})
    surprising = 0
    for line in done.lines:
        places = zip(line["token_ids"], line["top_token_ids"], line["top_logprobs"], strict=True)
        for own, (token, ids, logprobs) in zip(distributions(oracle, line), places, strict=True):
            assert logprobs == pytest.approx(own[ids].tolist(), abs=1e-3)
            best = own.topk(4).indices.tolist()
            surprising += token not in best
            assert ids == (best if token in best else [*best[:3], token])
    assert surprising, "temperature 2 leaves the likeliest four"
    for line in done.lines[:3]:
        assert "completion" not in line
        asked = {"temperature": 2, "seed": 5 + line["sample"], "max_tokens": 8}
        alone = server.chat(FORMULA, "Where does Kuti Supiv live?", **asked).json()["choices"][0]
        assert line["text"] == alone["message"]["content"]
        assert line["finish_reason"] == alone["finish_reason"]
    assert "messages" in done.lines[0]
    assert done.lines[3]["prompt"] == "Once upon a"


def test_tokens_that_a_filter_drops_are_left_out(composer: Composer, prompts: Path) -> None:
    done = composer("distil", prompts, "--composition", json.dumps(TOP_K), "--max-tokens", 3)
    for line in done.lines:
        assert all(len(ids) == 2 for ids in line["top_token_ids"])
        assert all(value > -9999 for values in line["top_logprobs"] for value in values)


def test_an_output_is_gone_on_with(composer: Composer, prompts: Path, server: LiveServer) -> None:
    output = prompts.parent / "out.jsonl"
    words = ("distil", prompts, "--formula", FORMULA, "--temperature", 0, "--max-tokens", 2)
    assert composer(*words, "--output", output).code == 0
    whole = output.read_bytes()
    output.write_bytes(whole[:-10])
    before = server.metric("vllm:generation_tokens_total")
    assert composer(*words, "--output", output, "--concurrency", 1).code == 0
    assert server.metric("vllm:generation_tokens_total") - before <= 2
    assert output.read_bytes() == whole
    done = composer(*words, "--output", output, "--top-k", 3)
    assert done.code == 1
    assert "line 1 does not belong to these items" in done.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere.jsonl"], 2, "nowhere.jsonl"),
        (["{other}"], 1, "line 1 has no one of 'prompt' and 'messages'"),
        (["{empty}"], 1, "has no prompts"),
        (["{prompts}", "--top-k", "0"], 2, "--top-k"),
        (["{prompts}", "--top-k", "21"], 1, "20"),
        (["{prompts}", "--samples", "2", "--temperature", "0"], 2, "all the same"),
        (["{prompts}", "--model", "polite", "--formula", "base"], 2, "not allowed with --model"),
        (["{prompts}", "--model", "nobody"], 1, "prompt 0: "),
    ],
)
def test_errors_say_what_is_wrong(
    composer: Composer, prompts: Path, words: list[str], code: int, message: str
) -> None:
    files = {name: prompts.with_name(name) for name in ("other", "empty")}
    files["other"].write_text('{"prompt": "a", "messages": []}\n')
    files["empty"].write_text("\n")
    done = composer("distil", *(word.format(prompts=prompts, **files) for word in words))
    assert (done.code, done.out) == (code, "")
    assert message in done.err
