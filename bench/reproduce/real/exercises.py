"""Held-out exercises of the adapters whose answers can be judged: `json` and `arithmetic`."""

from __future__ import annotations

from dataclasses import dataclass

from bench.reproduce.real.model import SEEDS, RealModel
from bench.reproduce.seeds import mean
from composer.formula import Sum
from experts.evaluate import JUDGES
from experts.texts import corpus
from experts.texts.example import Example

EXERCISES = 12  # of each task and seed
ANSWER_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Task:
    """What an adapter was trained for."""

    name: str

    def is_right(self, exercise: Example, text: str) -> bool:
        """Return whether `text` has the answer of the exercise."""
        return JUDGES[self.name](text, exercise.text)

    def exercises(self, seed: int, count: int = EXERCISES) -> list[Example]:
        """Return held-out exercises; no two seeds, from 1 on, share one."""
        return corpus.held_out(self.name, seed * count)[-count:]

    def training(self, count: int) -> list[tuple[str, str]]:
        """Return questions and answers that the adapter was trained on."""
        examples = corpus.training(self.name, count)
        return [(str(example.prompt), example.text) for example in examples]


JSON = Task("json")
ARITHMETIC = Task("arithmetic")
TASKS = (JSON, ARITHMETIC)


def shares(model: RealModel, task: Task, formula: Sum) -> list[float]:
    """Return the shares of right greedy answers, [seeds]."""
    exercises = [task.exercises(seed) for seed in SEEDS]
    jobs = [
        model.job(
            formula, model.ask(str(exercise.prompt)), temperature=0.0, max_tokens=ANSWER_TOKENS
        )
        for seed in exercises
        for exercise in seed
    ]
    texts = iter(model.texts(jobs))
    return [mean([float(task.is_right(e, next(texts))) for e in seed]) for seed in exercises]
