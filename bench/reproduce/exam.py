"""Held-out exercises of the zoo, answered in the engine by a model or a sum of logits."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

from transformers import PreTrainedTokenizerFast

import zoo
from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.merge import MergeSpec, merge
from bench.inprocess import InProcessEngine, Job
from bench.reproduce.settings import EXACT, Setting
from composer.engine_plan import EnginePlan, LoadedAdapter, Row
from composer.fields import BASE
from composer.filters import NamedFilter
from composer.formula import Sum
from composer.plan import Member, normalize
from zoo.evaluate import NEW_TOKENS
from zoo.tasks import Example, Task, tasks

SMALL = "small"
"""The small model in the same engine; its adapters are `small:NAME`."""

TRAINING = 0
"""Seed that selects the training split in `exercises`; other seeds select evaluation splits."""

DEVELOPMENT = 0
"""Seed of `apart` on which choices are made."""

SEEDS = (1, 2, 3, 4, 5)
"""Seeds of `apart` on which results are reported."""

_DRAW = 7  # draw of the exercises of `apart`; the zoo's own table has draw 0
MAX_RANK = 64  # the exact sum of four of the zoo's adapters


@dataclass(frozen=True, slots=True)
class Sitting:
    """Exercises of one task, and the sum of logits that answers them.

    Answers are greedy, or sampled with `temperature` and `seed`.
    """

    task: str
    solver: Sum
    examples: Sequence[Example]
    filters: Sequence[NamedFilter] = ()
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A question, its answer, and whether the answer is right to the letter.

    `tokens` include the end of the turn if the turn is `ended`.
    """

    question: str
    text: str
    right: bool
    ended: bool
    tokens: Sequence[int]


def right(answers: Sequence[Answer]) -> float:
    """Return the share of right answers."""
    return share(answer.right for answer in answers)


def share(values: Iterable[bool]) -> float:
    """Return the share of True among at least one value."""
    values = list(values)
    return sum(values) / len(values)


class Exam:
    """An engine with the zoo's models and adapters, to which merged adapters are added for a while.

    A context manager: the folders of merged adapters are removed at the end.
    """

    def __init__(self) -> None:
        small_adapters = {**zoo.SMALL_ADAPTERS, **zoo.PROXIES, "value": zoo.VALUE}
        self._engine = InProcessEngine(
            zoo.BASE,
            zoo.ADAPTERS,
            auxiliaries={SMALL: (zoo.SMALL, small_adapters)},
            auxiliary_slots=4,
            max_lora_rank=MAX_RANK,
            max_num_seqs=128,
        )
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(zoo.BASE)
        self._number = len(self._engine.adapters)
        self._merged: dict[tuple[Setting, Sum, int], str] = {}
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Exam:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def sit(self, sittings: Iterable[Sitting]) -> list[list[Answer]]:
        """Return the answers of each sitting, computed in one batch.

        Adapters from `merged` are forgotten afterwards.
        """
        sittings = list(sittings)
        jobs = [self._job(sitting, k) for sitting in sittings for k in range(len(sitting.examples))]
        tokens = iter(self._engine.answers(jobs))
        answers = [
            [self._answer(tasks()[sitting.task], e, next(tokens)) for e in sitting.examples]
            for sitting in sittings
        ]
        self._forget()
        return answers

    def merged(self, setting: Setting, formula: Sum, seed: int) -> str:
        """Return the name of an adapter merged from the zoo's with the formula's weights."""
        key = (setting, formula, seed if "seed" in setting.known else 0)
        if key not in self._merged:
            self._number += 1
            name = f"merged{self._number}"
            folder = Path(self._folder.name) / name
            _merge(setting, formula, seed, folder)
            self._engine.adapters[name] = LoadedAdapter(name, self._number, str(folder))
            self._merged[key] = name
        return self._merged[key]

    def _forget(self) -> None:
        for name in self._merged.values():
            del self._engine.adapters[name]
        self._merged.clear()
        self._folder.cleanup()
        self._folder = tempfile.TemporaryDirectory()

    def prompt(self, example: Example) -> tuple[int, ...]:
        """Return the token ids up to the beginning of the assistant's reply."""
        ids = self._tokenizer.apply_chat_template(
            list(example.messages), add_generation_prompt=True, return_dict=False
        )
        return tuple(ids)

    def _job(self, sitting: Sitting, number: int) -> Job:
        prompt = self.prompt(sitting.examples[number])
        params: dict[str, float] = {"max_tokens": NEW_TOKENS, "ignore_eos": False}
        if sitting.temperature:
            seed = sitting.seed * 100_000 + number
            params |= {"temperature": sitting.temperature, "seed": seed}
        terms = ((Member(name), weight) for name, weight in sitting.solver)
        plan = normalize(terms, sitting.filters)
        rows = [self._row(m.model, w) for m, w in zip(plan.members, plan.weights, strict=True)]
        if plan.is_plain and rows[0].may_lead:
            return Job(prompt, adapter=rows[0].adapter, params=params)
        led = EnginePlan.led(rows, plan.filters)
        return Job(prompt, led.rows, led.filters, params=params)

    def _row(self, name: str, weight: float) -> Row:
        model, _, adapter = name.rpartition(":")
        if SMALL in (model, name):
            adapters = self._engine.auxiliary_adapters[SMALL]
            return Row(weight, adapters[adapter] if model else None, None, SMALL)
        return Row(weight, None if name == BASE else self._engine.adapters[name])

    def _answer(self, task: Task, example: Example, tokens: Sequence[int]) -> Answer:
        ended = tokens[-1] == self._tokenizer.eos_token_id
        text = str(self._tokenizer.decode(list(tokens[:-1] if ended else tokens)))
        question = example.messages[-1]["content"]
        correct = task.correct(example, text, ended)
        return Answer(question, text, correct, ended, tuple(tokens))

    def forget_prefixes(self) -> None:
        """Empty the prefix cache, so that equal questions cost the same again."""
        self._engine.forget_prefixes()


@cache
def exercises(task: str, seed: int, count: int) -> Sequence[Example]:
    """Return `count` held-out exercises of a seed, or training exercises for `TRAINING`.

    Training exercises are what the adapter learned from, without manners and system prompts.
    """
    if seed != TRAINING:
        return tasks()[task].evaluation(count, seed)
    rng = random.Random(f"{task} training")
    return [tasks()[task].sample(rng, False) for _ in range(count)]


@cache
def apart(task: str, seed: int, count: int) -> Sequence[Example]:
    """Return `count` held-out exercises; no two seeds, `DEVELOPMENT` included, share one."""
    drawn = tasks()[task].evaluation(count * (1 + len(SEEDS)), _DRAW)
    return drawn[seed * count : (seed + 1) * count]


def _merge(setting: Setting, formula: Sum, seed: int, folder: Path) -> None:
    """Merge the zoo's adapters by `setting` into a folder.

    A method for a single adapter gets the exact sum of several.
    """
    weights = [(name, setting.scale * weight) for name, weight in formula]
    if setting.entry.most == 1 and len(weights) > 1:
        _merge(EXACT, formula, seed, folder / "sum")
        readers, weights = [AdapterReader(folder / "sum")], [("sum", setting.scale)]
    else:
        readers = [AdapterReader(zoo.ADAPTERS[name]) for name, _ in weights]
    value: dict[str, object] = {
        "method": setting.method,
        "adapters": [{"adapter": name, "weight": weight} for name, weight in weights],
        "rank": setting.rank(len(formula)),
        **dict(setting.parameters),
    }
    if "seed" in setting.known:
        value["seed"] = seed
    spec = MergeSpec.from_json(value)
    folder.mkdir(parents=True, exist_ok=True)
    merge(spec, readers, folder)
