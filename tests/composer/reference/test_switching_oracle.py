"""The oracle of switching: what each token is computed under, and on which cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from composer.reference.oracle import Oracle
from composer.reference.switching_oracle import (
    LinearGate,
    gated,
    gated_greedy,
    gated_mismatches,
    switched_mismatches,
    trigger_choices,
    triggered_greedy,
)

PROMPT = list(range(40, 60))
ANSWER = list(range(200, 212))
CANDIDATES = (None, "chat", "velan")


@pytest.fixture(scope="module")
def oracle(zoo_base: Path, zoo_adapters: dict[str, Path]) -> Oracle:
    torch.set_num_threads(1)
    return Oracle(zoo_base, {name: zoo_adapters[name] for name in ("chat", "velan", "rude")})


@pytest.mark.parametrize("adapter", [None, "chat"])
def test_without_a_switch_it_is_the_model(oracle: Oracle, adapter: str | None) -> None:
    tokens = PROMPT + ANSWER
    logits, hidden = oracle.switched(PROMPT, ANSWER, [adapter] * len(tokens))
    whole = oracle.logits(adapter, tokens)
    torch.testing.assert_close(logits, whole[len(PROMPT) - 1 :])
    stream = oracle.stream()  # token by token
    steps = [stream.read(adapter, [token]) for token in tokens]
    torch.testing.assert_close(torch.cat([s[0] for s in steps]), whole, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(torch.cat([s[1] for s in steps]), hidden, atol=1e-3, rtol=1e-3)


def test_the_hidden_states_are_what_the_output_layer_reads(oracle: Oracle, zoo_base: Path) -> None:
    embedding = load_file(zoo_base / "model.safetensors")["model.embed_tokens.weight"].float()
    logits, hidden = oracle.switched(PROMPT, ANSWER, ["chat"] * 10 + [None] * 22)
    assert hidden.shape == (32, 256)
    torch.testing.assert_close(hidden[len(PROMPT) - 1 :] @ embedding.T, logits)


def test_what_was_read_stays_as_its_adapter_computed_it(oracle: Oracle) -> None:
    """The last token is chat's; what it attends to is that of others."""
    choices = [*["velan"] * 20, *["rude"] * 11, "chat"]
    logits, _ = oracle.switched(PROMPT, ANSWER, choices)
    alone = oracle.logits("chat", PROMPT + ANSWER)[-1]
    assert (logits[-1] - alone).abs().max() > 0.1
    # The tokens before the first switch do not know of it; the one after it does.
    velan = oracle.logits("velan", PROMPT + ANSWER)
    torch.testing.assert_close(logits[0], velan[19], atol=1e-4, rtol=1e-4)
    assert (logits[1] - velan[20]).abs().max() > 0.1
    # Another prefix under the same last adapter gives another answer.
    other, _ = oracle.switched(PROMPT, ANSWER, [*["rude"] * 31, "chat"])
    assert (logits[-1] - other[-1]).abs().max() > 1e-3
    again, _ = oracle.switched(PROMPT, ANSWER, choices)
    torch.testing.assert_close(again, logits)


def test_triggers_hand_over_as_input_already() -> None:
    choices = trigger_choices(3, [9], [1, 9, 2], [5, 9, 6, 9, 7, 9])
    assert choices == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert trigger_choices(3, [9, 6], [1], [6, 6], start=1) == [1, 2, 2]
    assert trigger_choices(2, [9], [1], []) == [0]


def test_triggered_answers_are_without_mismatch(oracle: Oracle) -> None:
    plain = triggered_greedy(oracle, PROMPT, ["chat"], [], 12)
    assert plain == triggered_greedy(oracle, PROMPT, ["chat", "velan"], [1023], 12)
    trigger = plain[3]
    answer = triggered_greedy(oracle, PROMPT, ["chat", "velan"], [trigger], 12)
    first = plain.index(trigger)
    assert answer[: first + 1] == plain[: first + 1]
    choices = trigger_choices(2, [trigger], PROMPT, answer)
    assert choices.index(1) == len(PROMPT) + first
    assert switched_mismatches(oracle, PROMPT, answer, ["chat", "velan"], choices) == []
    wrong = [*answer[:5], answer[5] + 1]
    found = switched_mismatches(
        oracle, PROMPT, wrong, ["chat", "velan"], choices[: len(PROMPT) + 6]
    )
    assert [m.position for m in found] == [5]


def leaning(*biases: float, stickiness: float = 0.0) -> LinearGate:
    """A gate that looks at no hidden state."""
    return LinearGate(torch.zeros(len(biases), 256), torch.tensor(biases), stickiness)


def random_gate(stickiness: float = 0.0) -> LinearGate:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(3, 256, generator=generator)
    return LinearGate(weight, torch.zeros(3), stickiness)


@pytest.mark.parametrize(
    ("gate", "present", "chosen", "margin"),
    [
        (leaning(1, 3, 2), 0, 1, 1.0),
        (leaning(1, 3, 2), 1, 1, 1.0),
        (leaning(1, 3, 2, stickiness=1.5), 0, 1, 0.5),  # 3 against 1 + 1.5
        (leaning(1, 3, 2, stickiness=2.0), 0, 0, 0.0),  # exceeds by no more than the stickiness
        (leaning(1, 3, 2, stickiness=2.5), 0, 0, 0.5),
        (leaning(1, 3, 2, stickiness=0.5), 2, 1, 0.5),
        (leaning(2, 2, 1), 1, 1, 0.0),  # the present one stays among equals
        (leaning(2, 2, 1), 2, 0, 0.0),
        (leaning(2), 0, 0, float("inf")),
    ],
)
def test_the_choice_of_a_gate(gate: LinearGate, present: int, chosen: int, margin: float) -> None:
    found, clear_by = gate.next(present, torch.zeros(256))
    assert found == chosen
    assert clear_by == pytest.approx(margin)


def test_the_prompt_goes_to_the_start_and_its_last_token_to_the_gate(oracle: Oracle) -> None:
    result = gated(oracle, PROMPT, ANSWER, CANDIDATES, leaning(0, 0, 1), start=1)
    assert result.choices == [1] * 19 + [2] * 13
    assert result.margins == [float("inf")] * 19 + [1.0] * 13
    names = ["chat"] * 19 + ["velan"] * 13
    logits, hidden = oracle.switched(PROMPT, ANSWER, names)
    torch.testing.assert_close(result.logits, logits, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(result.hidden, hidden, atol=1e-3, rtol=1e-3)


def test_a_prompt_of_one_token_has_nothing_to_judge_by(oracle: Oracle) -> None:
    result = gated(oracle, [5], [6, 7], CANDIDATES, leaning(0, 0, 1), start=1)
    assert result.choices == [1, 2, 2]
    assert result.logits.shape == (3, 1024)


def test_a_gate_judges_by_the_state_of_the_token_before(oracle: Oracle) -> None:
    gate = random_gate(2.0)
    result = gated(oracle, PROMPT, ANSWER, CANDIDATES, gate)
    assert len(set(result.choices)) > 1
    names = [CANDIDATES[choice] for choice in result.choices]
    _, hidden = oracle.switched(PROMPT, ANSWER, names)
    for position in range(19, 32):
        present = result.choices[position - 1]
        scores = (gate.weight @ hidden[position - 1]).tolist()
        best = max(range(3), key=scores.__getitem__)
        expected = best if scores[best] > scores[present] + 2.0 else present
        assert result.choices[position] == expected


def test_gated_answers_are_without_mismatch(oracle: Oracle) -> None:
    gate = random_gate()
    answer = gated_greedy(oracle, PROMPT, CANDIDATES, gate, 12)
    choices = gated(oracle, PROMPT, answer, CANDIDATES, gate).choices[19 : 19 + 12]
    assert len(set(choices)) > 1
    assert gated_mismatches(oracle, PROMPT, answer, CANDIDATES, gate, choices) == ([], [])
    # A candidate that the gate did not want is found, and followed: what comes after is judged by
    # what it computed.
    wrong = [*choices[:4], (choices[4] + 1) % 3, *choices[5:]]
    _, found = gated_mismatches(oracle, PROMPT, answer, CANDIDATES, gate, wrong)
    assert (found[0].position, found[0].token, found[0].expected) == (4, wrong[4], choices[4])
    followed = gated(oracle, PROMPT, answer, CANDIDATES, gate, follow=wrong)
    present = [0] * 19 + wrong + followed.choices[-1:]
    logits, _ = oracle.switched(PROMPT, answer, [CANDIDATES[choice] for choice in present])
    torch.testing.assert_close(followed.logits, logits, atol=1e-3, rtol=1e-3)
    tokens, _ = gated_mismatches(
        oracle, PROMPT, [*answer[:5], answer[5] + 1], CANDIDATES, gate, choices[:6]
    )
    assert [m.position for m in tokens] == [5]
