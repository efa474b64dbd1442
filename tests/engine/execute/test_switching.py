"""Rows whose adapter changes from token to token, against one sequence in transformers.

That they answer as the oracle does under memory pressure, with aborts and beside everything else,
is also a part of `test_gangs`, whose requests are of all kinds.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.agreement import count_preemptions, mismatches
from bench.workload import random_gate
from composer.engine_plan import Row, Switch
from composer.reference.oracle import Oracle
from composer.reference.switching_oracle import LinearGate, gated
from tests.engine.harness import Job, WatchedEngine, count_mismatches, of_v1

PROMPT = tuple(range(40, 77))
NAMES = ("chat", "polite", "velan")


def gate_between(engine: WatchedEngine, *names: str | None, **options: float) -> Switch:
    candidates = tuple(engine.adapters[name] if name else None for name in names)
    classes = tuple(range(len(names)))
    return Switch(candidates, gate=str(random_gate()), classes=classes, **options)  # type: ignore[arg-type]


def reference(oracle: Oracle, job: Job, answer: list[int]) -> list[int]:
    """The candidate of every token of the answer."""
    switch = job.switch
    assert switch is not None
    assert switch.gate is not None
    tensors = load_file(switch.gate)
    classes = list(switch.classes)
    gate = LinearGate(tensors["weight"][classes], tensors["bias"][classes], switch.stickiness)
    names = [one.name if one else None for one in switch.candidates]
    found = gated(oracle, job.prompt, answer, names, gate, switch.start)
    return found.choices[len(job.prompt) - 1 : len(job.prompt) - 1 + len(answer)]


@pytest.mark.parametrize("which", ["roomy", "tight", "asynchronous"])
@pytest.mark.parametrize("stickiness", [0.0, 8.0])
def test_a_gate_chooses_for_every_token(
    which: str, stickiness: float, request: pytest.FixtureRequest, oracle: Oracle
) -> None:
    engine: WatchedEngine = request.getfixturevalue(which)
    switch = gate_between(engine, None, "chat", "velan", stickiness=stickiness)
    jobs = [
        Job(tuple(range(40, 40 + length)), switch=switch, report=str(length))
        for length in (1, 2, 31, 32, 33, 65, 90)
    ]
    switches = []
    for job, answer in zip(jobs, engine.answers(jobs), strict=True):
        assert job.report is not None
        [report] = engine.report(job.report)
        told = report["tokens"][:16]
        assert told == reference(oracle, job, answer)
        assert mismatches(oracle, job, answer) == []
        assert len(report["weights"]) == 3
        switches.append(sum(a != b for a, b in pairwise(told)))
    assert stickiness or sum(switches) > 5  # else the test says nothing
    engine.assert_nothing_left()


def test_triggers_hand_over(roomy: WatchedEngine, oracle: Oracle) -> None:
    [plain] = roomy.answers([Job(PROMPT, adapter=roomy.adapters["chat"])])
    candidates = tuple(roomy.adapters[name] for name in NAMES)
    # The first token at once, and one that never comes.
    for triggers in ((plain[0],), (1023,)):
        job = Job(PROMPT, switch=Switch(candidates, triggers=triggers), report="sequence")
        [answer] = roomy.answers([job])
        assert answer[0] == plain[0]
        assert mismatches(oracle, job, answer) == []
        [report] = roomy.report("sequence")
        expected = [min(answer[:n].count(triggers[0]), 2) for n in range(16)]
        assert report["tokens"] == expected
    assert answer == plain  # without a trigger it is a request to the first adapter


def test_preempted_rows_are_computed_again_as_they_were(
    tight: WatchedEngine, asynchronous: WatchedEngine, oracle: Oracle
) -> None:
    for engine in (tight, asynchronous):
        rng = random.Random(4)
        preempted = count_preemptions(engine)
        switch = gate_between(engine, "chat", "polite", "velan")
        jobs = [
            Job(
                tuple(rng.randrange(10, 500) for _ in range(rng.choice([33, 64, 90]))),
                switch=switch,
                params={"max_tokens": 60},
            )
            for _ in range(10)
        ]
        assert count_mismatches(oracle, jobs, engine.answers(jobs)) == (0, 0)
        assert preempted() > 0
        engine.assert_nothing_left()


def test_the_prefix_cache(roomy: WatchedEngine, oracle: Oracle) -> None:
    """The prompt is shared with requests to the adapter that reads it; the answer with nobody."""
    roomy.forget_prefixes()
    prompt = tuple(range(200, 265))  # two blocks and a token
    chat = roomy.adapters["chat"]
    switch = gate_between(roomy, "chat", "polite", "velan")
    long = {"max_tokens": 64}
    [routed] = roomy.run([Job(prompt, switch=switch, params=long)])
    answer = tuple(routed.outputs[0].token_ids)
    # Whoever reads prompt and answer as one prompt finds the blocks of the prompt alone.
    follow_up = Job((*prompt, *answer[:-1]), adapter=chat)
    [after] = roomy.run([follow_up])
    assert after.num_cached_tokens == 64
    assert mismatches(oracle, follow_up, list(after.outputs[0].token_ids)) == []
    roomy.forget_prefixes()
    [first] = roomy.run([Job(prompt, adapter=chat)])
    [shared] = roomy.run([Job(prompt, switch=switch)])
    # A block less: the gate needs the hidden state before the last token of the prompt.
    assert (first.num_cached_tokens, shared.num_cached_tokens) == (0, 64 - 32)
    [other] = roomy.run([Job(prompt, switch=gate_between(roomy, "polite", "chat"))])
    assert other.num_cached_tokens == 0


def test_candidates_stay_until_the_last_token(roomy: WatchedEngine, oracle: Oracle) -> None:
    """An adapter that is retired while a row may still switch to it."""
    switch = gate_between(roomy, "chat", "polite", "velan")
    job = Job(PROMPT, switch=switch, params={"max_tokens": 40})
    name = roomy.add(job)
    for _ in range(6):
        roomy.step()
    velan = roomy.adapters["velan"]
    roomy.retire(velan)
    assert velan.id in roomy.resident()
    answer = list(roomy.drain()[name].outputs[0].token_ids)
    assert mismatches(oracle, job, answer) == []
    roomy.assert_nothing_left()
    assert velan.id not in roomy.resident()
    assert roomy.answers([Job(PROMPT, adapter=velan)])  # and comes back


@of_v1
def test_vllm_counts_all_candidates_while_a_row_may_switch(roomy: WatchedEngine) -> None:
    """On CUDA it picks the graph of a step by the adapters in its books."""
    books = roomy.runner.input_batch.lora_id_to_lora_request
    name = roomy.add(Job(PROMPT, switch=gate_between(roomy, *NAMES)))
    for _ in range(3):
        roomy.step()
    assert set(books) == {roomy.adapters[one].id for one in NAMES}
    assert len(roomy.drain()[name].outputs[0].token_ids) == 16
    rude = roomy.adapters["rude"]
    roomy.add(Job(PROMPT, adapter=rude))
    roomy.step()
    assert set(books) == {rude.id}
    roomy.drain()
    roomy.assert_nothing_left()


def test_more_candidates_than_slots_are_refused(tight: WatchedEngine) -> None:
    names = ("chat", "polite", "velan", "rude")
    name = tight.add(Job(PROMPT, switch=gate_between(tight, *names)))
    beside = tight.add(Job(PROMPT, params={"max_tokens": 3}))
    done = tight.drain()
    assert done[name].outputs[0].finish_reason == "error"
    assert len(done[beside].outputs[0].token_ids) == 3
    tight.assert_nothing_left()


def test_a_gate_is_read_before_it_is_needed(
    roomy: WatchedEngine, oracle: Oracle, tmp_path: Path
) -> None:
    def load(path: Path) -> str:
        [problem] = roomy.core.collective_rpc("load_gate", args=(str(path),))
        return str(problem)

    path = tmp_path / "gate.safetensors"
    assert "No such file" in load(path)
    save_file({"weight": torch.zeros(3, 8), "bias": torch.zeros(3)}, path)
    assert "for hidden states of 8 numbers" in load(path)
    path.write_bytes(b"no gate")
    assert load(path)
    shutil.copyfile(random_gate(), path)
    assert load(path) == ""
    switch = replace(gate_between(roomy, *NAMES), gate=str(path))
    path.unlink()  # the engine does not look again
    job = Job(PROMPT, switch=switch)
    [answer] = roomy.answers([job])
    assert mismatches(oracle, replace(job, switch=gate_between(roomy, *NAMES)), answer) == []


def test_beside_sums_and_plain_requests(roomy: WatchedEngine, oracle: Oracle) -> None:
    chat, velan = roomy.adapters["chat"], roomy.adapters["velan"]
    jobs = [
        Job(PROMPT, switch=gate_between(roomy, "chat", "velan", None)),
        Job(PROMPT, adapter=velan),
        Job(PROMPT),
        Job(PROMPT, (Row(1.0), Row(1.0, chat), Row(-1.0, velan))),
        Job(PROMPT, switch=gate_between(roomy, None, "velan"), params={"max_tokens": 40}),
    ]
    assert count_mismatches(oracle, jobs, roomy.answers(jobs)) == (0, 0)
    roomy.assert_nothing_left()
