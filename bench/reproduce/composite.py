"""Composite tasks: a prompt with questions for different adapters, all answered in one answer.

As composite-n of MeteoRA (Xu et al. 2024, arXiv:2405.13053, section 4.1): 3, 5 or 10 questions of
different tasks in random order. Every way of choosing adapters answers the same prompts greedily
through the engine. `zoo.lists` defines the questions and which answers are right.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from transformers import PreTrainedTokenizerFast

import zoo
from bench.inprocess import InProcessEngine, Job
from bench.measure import table
from bench.reproduce.exam import DEVELOPMENT, SEEDS
from bench.reproduce.plot import Line, chart
from bench.reproduce.readme import Report
from bench.reproduce.seeds import cell, mean
from composer.engine_plan import MixtureParameters, Row, Switch
from composer.fields import BASE
from composer.gate_training.examples import Example
from composer.gate_training.train import train_gate
from composer.mixtures.gate_file import Gate, save_gate
from zoo.lists import Item, composite, opening, pieces, right
from zoo.tokenizer import BOS

QUESTIONS = 10
"""Number of prompts per size and seed."""

SIZES = (3, 5, 10)
"""Numbers of questions in a prompt."""

ANSWER_TOKENS = 320  # the longest right answer to ten questions has fewer than 300

TURNS = 100  # training turns of the gate per speaker
TRAINING_SIZES = (1, 2, 4, 6, 10)  # numbers of questions in the training lists

POSTERIORS = tuple(
    MixtureParameters(fixed=0.0, posterior=1.0, forgetting=forgetting, floor=floor, prompt=False)
    for forgetting in (0.3, 0.5, 0.8)
    for floor in (0.005, 0.02)
)
"""Candidates, chosen on the development seed."""

STICKINESS = (0.0, 2.0, 4.0, 6.0)
"""Candidates for the gate's stickiness: the lead in logits that another adapter needs."""

Right: TypeAlias = Sequence[Sequence[bool]]
"""For each prompt, whether each of its questions got the right answer, in order."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as token ids, and its questions."""

    items: Sequence[Item]
    tokens: tuple[int, ...]


Way: TypeAlias = Callable[[Prompt], Job]
"""Return the request that answers a prompt in one way."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares of right answers by size: `[seeds][positions]`."""

    by_size: Mapping[int, Sequence[Sequence[float]]]

    def means(self, size: int) -> list[float]:
        """Return means over the positions, `[seeds]`."""
        return [mean(seed) for seed in self.by_size[size]]

    def at(self, size: int, position: int) -> list[float]:
        """Return the shares at one position, `[seeds]`."""
        return [seed[position] for seed in self.by_size[size]]


@dataclass(frozen=True, slots=True)
class Results:
    """Scores by the name of the way, and the choices made on the development seed."""

    scores: Mapping[str, Scores]
    single: str
    posterior: MixtureParameters
    stickiness: float
    gate_accuracy: float

    def ratio(self, way: str, size: int) -> float:
        """Return the score relative to routing that knows the tasks, from means over the seeds."""
        oracle = mean(self.scores[ORACLE].means(size))
        return mean(self.scores[way].means(size)) / oracle if oracle else float("nan")


ORACLE, GATE, POSTERIOR = "oracle routing, one row", "gate, one row", "posterior"
UNSTEADY = "gate, one row, no stickiness"


class Hall:
    """An engine with the model `lists` and all its adapters."""

    def __init__(self) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(zoo.LISTS)
        self.engine = InProcessEngine(
            zoo.LISTS,
            zoo.LIST_ADAPTERS,
            max_loras=len(zoo.LIST_ADAPTERS),
            max_num_seqs=128,
            kv_blocks=2048,
            kv_cache_memory_bytes=1 << 30,
        )
        [self._newline] = self._ids("\n")

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def prompts(self, size: int, seed: int, count: int) -> list[Prompt]:
        """Return prompts of the evaluation split."""
        rng = random.Random(f"composite {size} {seed}")
        lists = [composite(rng, size, evaluated=True) for _ in range(count)]
        return [Prompt(items, tuple(self._ids(BOS + opening(items)))) for items in lists]

    def answer(self, way: Way, prompts: Sequence[Prompt]) -> Right:
        """Answer all prompts in one batch, and judge the answers."""
        answers = self.engine.answers([way(prompt) for prompt in prompts])
        end = self.tokenizer.eos_token_id
        texts = [self.tokenizer.decode([t for t in tokens if t != end]) for tokens in answers]
        return [right(prompt.items, text) for prompt, text in zip(prompts, texts, strict=True)]

    # ---- the ways

    def plain(self, adapter: str | None, prompt: Prompt) -> Job:
        """Return a plain request to one adapter, or to the model alone."""
        loaded = self.engine.adapters[adapter] if adapter is not None else None
        return Job(prompt.tokens, adapter=loaded, params=self._params())

    def mixed(self, mixture: MixtureParameters, prompt: Prompt) -> Job:
        """Return a mixture with one row per adapter."""
        adapters = self.engine.adapters.values()
        rows = tuple(Row(1 / len(adapters), adapter) for adapter in adapters)
        return Job(prompt.tokens, rows, mixture=mixture, params=self._params())

    def gated(self, gate: Gate, path: Path, stickiness: float, prompt: Prompt) -> Job:
        """Return a request of one row that a gate routes; the model alone reads the prompt."""
        names = [BASE, *self.engine.adapters]
        candidates = (None, *self.engine.adapters.values())
        classes = gate.rows(names)
        switch = Switch(candidates, gate=str(path), classes=classes, stickiness=stickiness)
        return Job(prompt.tokens, switch=switch, params=self._params())

    def oracle(self, prompt: Prompt) -> Job:
        """Return a request of one row that hands over where it should: at the end of each line."""
        speakers = [piece.task for piece in pieces(prompt.items)]
        adapters = [self.engine.adapters[name] if name else None for name in (*speakers, None)]
        switch = Switch(tuple(adapters), triggers=(self._newline,))
        return Job(prompt.tokens, switch=switch, params=self._params())

    def _params(self) -> dict[str, object]:
        return {"max_tokens": ANSWER_TOKENS, "ignore_eos": False}

    # ---- the gate

    def train(self) -> Gate:
        """Train a gate on lists of the training split."""
        digests = dict.fromkeys(zoo.LIST_ADAPTERS)
        return train_gate(zoo.LISTS, zoo.LIST_ADAPTERS, digests, self._turns()).gate

    def _turns(self) -> dict[str, list[Example]]:
        """Return the turns of each adapter, and of the model alone, as training examples."""
        rng = random.Random("turns for the gate")
        turns: dict[str, list[Example]] = {name: [] for name in (BASE, *zoo.LIST_ADAPTERS)}
        while min(map(len, turns.values())) < TURNS:
            items = composite(rng, rng.choice(TRAINING_SIZES), evaluated=False)
            tokens = self._ids(BOS + opening(items))
            spoken = [(piece.task or BASE, self._ids(piece.text)) for piece in pieces(items)]
            for speaker, ids in (*spoken, (BASE, [self.tokenizer.eos_token_id])):
                before = len(tokens)
                tokens = tokens + ids
                if len(turns[speaker]) < TURNS:
                    turns[speaker].append(Example(tuple(tokens), before))
        return turns


def measure(count: int = QUESTIONS, sizes: Sequence[int] = SIZES) -> Results:
    """Measure everything that README.md reports on composite tasks."""
    hall = Hall()
    development = hall.prompts(max(sizes), DEVELOPMENT, count)

    def score(way: Way) -> float:
        return _share(hall.answer(way, development))

    single = max(zoo.LIST_ADAPTERS, key=lambda name: score(partial(hall.plain, name)))
    posterior = max(POSTERIORS, key=lambda mixture: score(partial(hall.mixed, mixture)))
    gate = hall.train()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate.safetensors"
        save_gate(gate, path)
        stickiness = max(STICKINESS, key=lambda s: score(partial(hall.gated, gate, path, s)))
        ways: dict[str, Way] = {
            "base": partial(hall.plain, None),
            "best single adapter": partial(hall.plain, single),
            "uniform mixture": partial(hall.mixed, MixtureParameters()),
            POSTERIOR: partial(hall.mixed, posterior),
            UNSTEADY: partial(hall.gated, gate, path, 0.0),
            GATE: partial(hall.gated, gate, path, stickiness),
            ORACLE: hall.oracle,
        }
        scores = {name: _scores(hall, way, count, sizes) for name, way in ways.items()}
    return Results(scores, single, posterior, stickiness, float(gate.metadata["accuracy"]))


def _scores(hall: Hall, way: Way, count: int, sizes: Sequence[int]) -> Scores:
    by_size = {}
    for size in sizes:
        answers = [hall.answer(way, hall.prompts(size, seed, count)) for seed in SEEDS]
        by_size[size] = [
            [mean([prompt[position] for prompt in prompts]) for position in range(size)]
            for prompts in answers
        ]
    return Scores(by_size)


def _share(answers: Right) -> float:
    return mean([float(is_right) for prompt in answers for is_right in prompt])


def report(results: Results) -> Report:
    """Return the section of README.md."""
    sizes = list(next(iter(results.scores.values())).by_size)
    overall = table(
        ["right, %", *(f"composite-{size}" for size in sizes), "rows"],
        [
            [name, *(cell(scores.means(size)) for size in sizes), _rows(name)]
            for name, scores in results.scores.items()
        ],
    )
    parts = [overall]
    for size in sizes:
        head = [f"composite-{size}, by position", *map(str, range(1, size + 1))]
        rows = [
            [name, *(cell(scores.at(size, position)) for position in range(size))]
            for name, scores in results.scores.items()
        ]
        parts.append(table(head, rows))
    largest = sizes[-1]
    mixture = results.posterior
    parts.append(
        f"Of oracle routing at composite-{largest}: the gate {results.ratio(GATE, largest):.3f}, "
        f"the posterior {results.ratio(POSTERIOR, largest):.3f}. Chosen on the development seed: "
        f"the adapter `{results.single}`; forgetting {mixture.forgetting:g} "
        f"and floor {mixture.floor:g}; stickiness {results.stickiness:g}. "
        f"Held-out positions that the gate gets right: {100 * results.gate_accuracy:.1f} %."
    )
    lines = [
        Line(
            name,
            [(float(position + 1), scores.at(largest, position)) for position in range(largest)],
        )
        for name, scores in results.scores.items()
        if name != UNSTEADY  # leaves six lines
    ]
    title = f"composite-{largest}: right answers by position"
    picture = chart(title, ("position in the prompt", "share"), lines, top=1.05)
    return Report("\n\n".join(parts), {"composite": picture})


def _rows(name: str) -> str:
    return str(len(zoo.LIST_ADAPTERS)) if name in ("uniform mixture", POSTERIOR) else "1"
