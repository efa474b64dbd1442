"""The parts that say what the machine is and whether answers on it are right."""

from __future__ import annotations

import time
from typing import Any

import zoo
from bench.agreement import PRESSURE, count_mismatches, send_under_pressure
from bench.gpu.agreement.methods import POLITE, SMALL
from bench.gpu.agreement.verification import Verification
from bench.gpu.part import Part, Section, section
from bench.gpu.speed.roofline import bandwidth
from bench.inprocess import InProcessEngine, Job
from bench.machine.hardware import describe
from bench.workload import random_job
from composer.reference.oracle import Oracle
from zoo.prompts import prompts as zoo_prompts


def environment(part: Part) -> list[Section]:
    """Describe the machine, and measure how fast its device reads memory."""
    rate = bandwidth(part.device, (1 << 30) if part.cuda else (256 << 20))
    machine = [*describe(), ("memory read and written by a copy", f"{rate / 1e9:.0f} GB/s")]
    rows = [{"what": what, "value": value} for what, value in machine]
    about = section("Environment", "", rows)
    return [about | {"bytes_per_s": rate, "cuda": part.cuda}]


def methods(part: Part) -> list[Section]:
    """Load the zoo, answer one composed request, and verify every method."""
    options = part.engine_options() | {"max_logprobs": -1}
    auxiliaries = {SMALL: (zoo.SMALL, zoo.SMALL_ADAPTERS)}
    start = time.monotonic()
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS, auxiliaries=auxiliaries, **options)
    loaded = time.monotonic() - start
    smoke = _smoke(engine, loaded)
    small = InProcessEngine(zoo.SMALL, zoo.SMALL_ADAPTERS, **options)
    oracle = Oracle(zoo.BASE, zoo.ADAPTERS)
    count, length = (16 if not part.quick else 6, 24) if part.cuda else (1, 4)
    verification = Verification({None: engine, SMALL: small}, oracle, count, length)
    rows = [verification.check(name) for name in part.budget.take(verification.names)]
    about = (
        f"{count} prompts of each method, greedy answers of {length} tokens, in bfloat16. "
        "Differences are of log-probabilities from the same rows as plain requests, composed "
        "outside of the engine; gate and sequence, which no plain request computes, from "
        "transformers and PEFT in float32. Noise is what plain requests alone show in the same "
        "comparison, carried through the method."
    )
    verdict = section("Methods", about, rows, part.budget.left_out)
    return [smoke, verdict | {"passed": all(row["passed"] for row in rows)}, part.memory()]


def _smoke(engine: InProcessEngine, loaded: float) -> Section:
    messages = [{"role": "user", "content": zoo_prompts("chat", 1)[0]}]
    encoded: Any = engine.engine.get_tokenizer().apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    prompt = tuple(encoded)
    start = time.monotonic()
    [output] = engine.run([Job(prompt, POLITE(engine, prompt).rows, params={"max_tokens": 16})])
    rows = [
        {"what": "asked", "value": messages[0]["content"]},
        {"what": "engine loaded after", "value": f"{loaded:.1f} s"},
        {"what": "chat + 0.8*(polite - rude)", "value": repr(output.outputs[0].text)},
        {"what": "answered after", "value": f"{time.monotonic() - start:.2f} s"},
    ]
    return section("Smoke", "", rows) | {"passed": len(output.outputs[0].token_ids) == 16}


def pressure(part: Part) -> list[Section]:
    """Compare answers under memory pressure with transformers and PEFT, in float32.

    vLLM's CUDA kernels for LoRA do not support float32, so on CUDA every member is the base model
    with its own prompt.
    """
    adapters = {} if part.cuda else zoo.ADAPTERS
    engine = InProcessEngine(zoo.BASE, adapters, **PRESSURE, **part.engine_options("float32"))
    outcome = send_under_pressure(engine, 0, 100 if part.cuda else 20, random_job)
    jobs = [answered.job for answered in outcome.answered]
    answers = [answered.answer for answered in outcome.answered]
    wrong, ties = count_mismatches(Oracle(zoo.BASE, adapters), jobs, answers)
    row = {
        "answered": len(jobs),
        "aborted": outcome.aborted,
        "tokens": sum(map(len, answers)),
        "wrong": wrong,
        "near-ties": ties,
        "preempted gangs": outcome.preempted_gangs,
        "lost": outcome.lost,
        "left": len(outcome.leftovers),
    }
    about = "Random requests with aborts, in float32, against transformers and PEFT."
    passed = not (wrong or outcome.lost or outcome.leftovers)
    return [section("Memory pressure", about, [row]) | {"passed": passed}]
