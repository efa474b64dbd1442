"""Composite tasks: a prompt holds questions for different adapters, one answer takes all of them.

As composite-n of MeteoRA (Xu et al. 2024, arXiv:2405.13053, section 4.1): 3, 5 or 10 questions of
different tasks in random order. Every way of choosing the adapter answers the same prompts,
greedily, through the engine. See `zoo.lists` for the questions and for what counts as right.
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
"""Prompts of each size and seed."""

SIZES = (3, 5, 10)
"""Questions of a prompt."""

ANSWER_TOKENS = 320  # the longest right answer to ten questions has fewer than 300

TURNS = 100  # of each speaker, from which the gate learns
TAUGHT = (1, 2, 4, 6, 10)  # questions of the lists that they stand in

POSTERIORS = tuple(
    MixtureParameters(fixed=0.0, posterior=1.0, forgetting=forgetting, floor=floor, prompt=False)
    for forgetting in (0.3, 0.5, 0.8)
    for floor in (0.005, 0.02)
)
"""Among which the development seed chooses."""

STICKINESS = (0.0, 2.0, 4.0, 6.0)
"""Of the gate, and chosen alike: by how much another adapter's logit must exceed the present's."""

Right: TypeAlias = Sequence[Sequence[bool]]
"""For each prompt, which of its questions were answered rightly, in their order."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt in tokens, and what it asks."""

    items: Sequence[Item]
    tokens: tuple[int, ...]


Way: TypeAlias = Callable[[Asked], Job]
"""How a prompt is answered."""


@dataclass(frozen=True, slots=True)
class Scores:
    """By size: `[seeds][positions]`, shares of right answers."""

    by_size: Mapping[int, Sequence[Sequence[float]]]

    def means(self, size: int) -> list[float]:
        """Over the positions, `[seeds]`."""
        return [mean(seed) for seed in self.by_size[size]]

    def at(self, size: int, position: int) -> list[float]:
        """`[seeds]`."""
        return [seed[position] for seed in self.by_size[size]]


@dataclass(frozen=True, slots=True)
class Found:
    """By the name of the way, and what was chosen on the development seed."""

    scores: Mapping[str, Scores]
    single: str
    posterior: MixtureParameters
    stickiness: float
    gate_accuracy: float

    def ratio(self, way: str, size: int) -> float:
        """To routing that knows the tasks, means of the seeds."""
        known = mean(self.scores[ORACLE].means(size))
        return mean(self.scores[way].means(size)) / known if known else float("nan")


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
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def asked(self, size: int, seed: int, count: int) -> list[Asked]:
        """Prompts of the evaluation split."""
        rng = random.Random(f"composite {size} {seed}")
        drawn = [composite(rng, size, evaluated=True) for _ in range(count)]
        return [Asked(items, tuple(self._ids(BOS + opening(items)))) for items in drawn]

    def answer(self, way: Way, asked: Sequence[Asked]) -> Right:
        found = self.engine.answers([way(one) for one in asked])
        end = self.tokenizer.eos_token_id
        texts = [self.tokenizer.decode([t for t in tokens if t != end]) for tokens in found]
        return [right(one.items, text) for one, text in zip(asked, texts, strict=True)]

    # ---- the ways

    def plain(self, adapter: str | None, asked: Asked) -> Job:
        own = self.engine.adapters[adapter] if adapter is not None else None
        return Job(asked.tokens, adapter=own, params=self._params())

    def mixed(self, mixture: MixtureParameters, asked: Asked) -> Job:
        """A row for every adapter."""
        adapters = self.engine.adapters.values()
        rows = tuple(Row(1 / len(adapters), adapter) for adapter in adapters)
        return Job(asked.tokens, rows, mixture=mixture, params=self._params())

    def gated(self, gate: Gate, path: Path, stickiness: float, asked: Asked) -> Job:
        """One row. The model by itself reads the prompt."""
        names = [BASE, *self.engine.adapters]
        candidates = (None, *self.engine.adapters.values())
        classes = gate.rows(names)
        switch = Switch(candidates, gate=str(path), classes=classes, stickiness=stickiness)
        return Job(asked.tokens, switch=switch, params=self._params())

    def told(self, asked: Asked) -> Job:
        """One row that changes hands where it should: at the end of each line."""
        speakers = [piece.task for piece in pieces(asked.items)]
        own = tuple(self.engine.adapters[name] if name else None for name in (*speakers, None))
        switch = Switch(own, triggers=(self._newline,))
        return Job(asked.tokens, switch=switch, params=self._params())

    def _params(self) -> dict[str, object]:
        return {"max_tokens": ANSWER_TOKENS, "ignore_eos": False}

    # ---- the gate

    def train(self) -> Gate:
        """A gate, from lists of the training split."""
        digests = dict.fromkeys(zoo.LIST_ADAPTERS)
        return train_gate(zoo.LISTS, zoo.LIST_ADAPTERS, digests, self._turns()).gate

    def _turns(self) -> dict[str, list[Example]]:
        """Examples of what each adapter, and the model by itself, says in its turns."""
        rng = random.Random("turns for the gate")
        found: dict[str, list[Example]] = {name: [] for name in (BASE, *zoo.LIST_ADAPTERS)}
        while min(map(len, found.values())) < TURNS:
            items = composite(rng, rng.choice(TAUGHT), evaluated=False)
            tokens = self._ids(BOS + opening(items))
            spoken = [(piece.task or BASE, self._ids(piece.text)) for piece in pieces(items)]
            for speaker, ids in (*spoken, (BASE, [self.tokenizer.eos_token_id])):
                before = len(tokens)
                tokens = tokens + ids
                if len(found[speaker]) < TURNS:
                    found[speaker].append(Example(tuple(tokens), before))
        return found


def measure(count: int = QUESTIONS, sizes: Sequence[int] = SIZES) -> Found:
    """Everything that README.md says about composite tasks."""
    hall = Hall()
    development = hall.asked(max(sizes), DEVELOPMENT, count)

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
            ORACLE: hall.told,
        }
        scores = {name: _scores(hall, way, count, sizes) for name, way in ways.items()}
    return Found(scores, single, posterior, stickiness, float(gate.metadata["accuracy"]))


def _scores(hall: Hall, way: Way, count: int, sizes: Sequence[int]) -> Scores:
    by_size = {}
    for size in sizes:
        answers = [hall.answer(way, hall.asked(size, seed, count)) for seed in SEEDS]
        by_size[size] = [
            [mean([one[position] for one in prompts]) for position in range(size)]
            for prompts in answers
        ]
    return Scores(by_size)


def _share(answers: Right) -> float:
    return mean([float(one) for prompt in answers for one in prompt])


def report(found: Found) -> Report:
    sizes = list(next(iter(found.scores.values())).by_size)
    overall = table(
        ["right, %", *(f"composite-{size}" for size in sizes), "rows"],
        [
            [name, *(cell(scores.means(size)) for size in sizes), _rows(name)]
            for name, scores in found.scores.items()
        ],
    )
    parts = [overall]
    for size in sizes:
        head = [f"composite-{size}, by position", *map(str, range(1, size + 1))]
        rows = [
            [name, *(cell(scores.at(size, position)) for position in range(size))]
            for name, scores in found.scores.items()
        ]
        parts.append(table(head, rows))
    largest = sizes[-1]
    mixture = found.posterior
    parts.append(
        f"Of oracle routing at composite-{largest}: the gate {found.ratio(GATE, largest):.3f}, the "
        f"posterior {found.ratio(POSTERIOR, largest):.3f}. Chosen on the development seed: the "
        f"adapter `{found.single}`; forgetting {mixture.forgetting:g} and floor {mixture.floor:g}; "
        f"stickiness {found.stickiness:g}. "
        f"Held-out positions that the gate gets right: {100 * found.gate_accuracy:.1f} %."
    )
    lines = [
        Line(
            name,
            [(float(at + 1), scores.at(largest, at)) for at in range(largest)],
        )
        for name, scores in found.scores.items()
        if name != UNSTEADY  # a seventh line is one too many
    ]
    title = f"composite-{largest}: right answers by position"
    picture = chart(title, ("position in the prompt", "share"), lines, top=1.05)
    return Report("\n\n".join(parts), {"composite": picture})


def _rows(name: str) -> str:
    return str(len(zoo.LIST_ADAPTERS)) if name in ("uniform mixture", POSTERIOR) else "1"
