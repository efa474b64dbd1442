"""Every method against its members as plain requests of the same engine, in its own precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file

from bench.gpu.agreement.methods import SCORED, SUMS, SWITCHED, Method
from bench.gpu.agreement.noise import WORST, Difference, difference
from bench.gpu.agreement.plain_rows import Engines, NoisyRows, PlainRows, Reading, as_tensor
from bench.inprocess import InProcessEngine, Job, prompt_scores
from bench.scoring import oracle_log_probs, scored_text
from bench.workload import VOCABULARY, prompts
from composer.reference.mixture_oracle import mixed
from composer.reference.oracle import Oracle
from composer.reference.switching_oracle import LinearGate, gated, trigger_choices

PROMPT_TOKENS = 40


class Verification:
    """Compares the methods, each with `count` prompts and answers of `length` tokens.

    `engines` has the composing engine (None) and a plain one for each of its auxiliary models;
    `oracle` has the same base model and adapters.
    """

    def __init__(self, engines: Engines, oracle: Oracle, count: int, length: int) -> None:
        self._engine = engines[None]
        self._rows = PlainRows(engines)
        self._noisy = NoisyRows(self._rows, length)
        self._read_at_once = PlainRows(engines, Reading.AT_ONCE)
        self._oracle = oracle
        self._length = length
        self._prompts = prompts(count, PROMPT_TOKENS, VOCABULARY, seed=1)
        _, self._floor = self._sums(SUMS["plain, adapter"])

    @property
    def names(self) -> list[str]:
        """The methods, in the order of the report."""
        return [*SUMS, *SCORED, *SWITCHED]

    def check(self, name: str) -> dict[str, Any]:
        """Return a row of the report: the method's difference, the noise, and whether it passed."""
        self._rows.forget()
        wrong_choices = 0
        if name in SUMS:
            found, noise = self._sums(SUMS[name])
        elif name in SCORED:
            found, noise = self._scores(SCORED[name])
        else:
            found, noise, wrong_choices = self._switches(SWITCHED[name])
        return {
            "method": name,
            "tokens": found.positions,
            "mean_difference": found.mean,
            "mean_noise": noise.mean,
            "worst_difference": found.worst,
            "worst_noise": noise.worst,
            "edge_tokens": found.edges,
            "edge_noise": noise.edges,
            "wrong_choices": wrong_choices,
            "passed": found.within(noise, self._floor) and not wrong_choices,
        }

    def _answered(self, method: Method, **changes: Any) -> Iterator[tuple[Job, list[int], Any]]:
        """Run a method's requests together; return each with its tokens and vLLM's output."""
        params = {"max_tokens": self._length, "logprobs": -1}
        jobs = [method(self._engine, prompt) for prompt in self._prompts]
        jobs = [replace(job, params=params | changes) for job in jobs]
        for job, output in zip(jobs, self._engine.run(jobs), strict=True):
            yield job, list(output.outputs[0].token_ids), output

    def _sums(self, method: Method) -> tuple[Difference, Difference]:
        computed, noise = [], []
        for job, answer, output in self._answered(method):
            exact, noisy = (_composed(rows, job, answer) for rows in (self._rows, self._noisy))
            computed.append((as_tensor(output.outputs[0].logprobs), exact))
            noise.append((noisy, exact))
        return difference(computed), difference(noise)

    def _scores(self, method: Method) -> tuple[Difference, Difference]:
        """Compare the scores of the text. The noise is between two ways to read plain prompts."""
        computed, noise = [], []
        for job, _, output in self._answered(method, prompt_logprobs=0, max_tokens=1):
            text = torch.tensor(scored_text(job)).unsqueeze(1)
            exact, noisy = (
                _alone(oracle_log_probs(rows, job).gather(1, text))
                for rows in (self._rows, self._read_at_once)
            )
            shown = torch.tensor(prompt_scores(output)[-len(text) :]).unsqueeze(1)
            computed.append((_alone(shown), exact))
            noise.append((noisy, exact))
        return difference(computed), difference(noise)

    def _switches(self, method: Method) -> tuple[Difference, Difference, int]:
        """Compare with transformers and PEFT in float32; the noise is that of plain requests to the
        candidates against the same. Choices of a gate count as wrong beyond that noise."""
        computed, noise, choices = [], [], []
        for number, prompt in enumerate(self._prompts):
            job = method(self._engine, prompt)
            job = replace(job, report=f"{job.switch} {number}")
            params = {"max_tokens": self._length, "logprobs": -1}
            [output] = self._engine.run([replace(job, params=params)])
            answer = list(output.outputs[0].token_ids)
            z, margins = _switched(self._engine, self._oracle, job, answer)
            computed.append((as_tensor(output.outputs[0].logprobs), z))
            choices.append(margins)
            assert job.switch is not None
            for adapter in job.switch.candidates:
                name = adapter.name if adapter is not None else None
                plain = Job(prompt, adapter=adapter, params=params)
                [output] = self._engine.run([plain])
                tokens = [*prompt, *output.outputs[0].token_ids]
                expected = self._oracle.logits(name, tokens)[len(prompt) - 1 : -1].log_softmax(-1)
                noise.append((as_tensor(output.outputs[0].logprobs), expected))
        of_noise = difference(noise)
        # Relative to the spread of the numbers compared, hidden states have the noise of logits.
        allowed = WORST * of_noise.worst / float(torch.cat([z for _, z in noise]).std(-1).mean())
        wrong = sum(int((margins > allowed).sum()) for margins in choices)
        return difference(computed), of_noise, wrong


def _alone(scores: torch.Tensor) -> torch.Tensor:
    """Return distributions of two outcomes, `[T, 1]` -> `[T, 2]`: the token, and any other."""
    probs = scores.double().exp().clamp(max=1 - 1e-12)
    return torch.cat([scores.double(), (-probs).log1p()], dim=1)


def _composed(rows: Oracle, job: Job, answer: list[int]) -> torch.Tensor:
    """Return log-probabilities `[T, V]` before each token of an answer."""
    members = job.oracle_rows()
    if job.mixture is not None:
        z, _ = mixed(rows, members, job.mixture, answer, job.filters)
    else:
        z = rows.composed(members, job.filters, answer, job.log_softmax)
    return z[:-1].log_softmax(-1)


def _switched(
    engine: InProcessEngine, oracle: Oracle, job: Job, answer: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities `[T, V]` before each token of an answer, computed with the engine's
    choices, and the margins of those choices that the oracle makes differently, in standard
    deviations of the gate's logits."""
    switch = job.switch
    assert switch is not None
    assert job.report is not None
    [report] = engine.report(job.report)
    chosen = list(report["tokens"])[: len(answer)]
    names = [adapter.name if adapter is not None else None for adapter in switch.candidates]
    if switch.gate is None:
        expected = trigger_choices(len(names), switch.triggers, job.prompt, answer, switch.start)
        z, _ = oracle.switched(job.prompt, answer, [names[choice] for choice in expected])
        first = len(job.prompt) - 1
        wrong = [c != e for c, e in zip(chosen, expected[first:], strict=False)]
        return z[:-1].log_softmax(-1), torch.full((sum(wrong),), torch.inf)
    tensors, classes = load_file(switch.gate), list(switch.classes)
    gate = LinearGate(tensors["weight"][classes], tensors["bias"][classes], switch.stickiness)
    result = gated(oracle, job.prompt, answer, names, gate, switch.start, chosen)
    steps = slice(len(job.prompt) - 1, len(job.prompt) - 1 + len(chosen))
    differ = torch.tensor(result.choices[steps]) != torch.tensor(chosen)
    spread = (result.hidden @ gate.weight.T).std()
    return result.logits[:-1].log_softmax(-1), torch.tensor(result.margins[steps])[differ] / spread
