"""Whether the posterior router, as a request gets it by default, is right on real adapters.

They were trained on answers only, so that how well one explains a prompt says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import AutoTokenizer

import experts
from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import show, table
from composer.engine_plan import Row
from composer.fields import BASE
from composer.mixtures.route import engine_mixture, route
from composer.mixtures.tfidf import PromptSimilarity
from composer.plan import Limits
from composer.request import parse_composition
from experts.base_model import base_model
from experts.texts.corpus import held_out_prompts

HELD_OUT = 40  # prompts of each adapter
ANSWER_TOKENS = 16
ROUTERS: Mapping[str, object] = {
    "default": "posterior",
    "as DEMix: equal prior, the prompt counts": {
        "kind": "posterior",
        "prior": "fixed",
        "prompt": True,
        "forgetting": 1,
    },
    "equal prior, the prompt does not count": {
        "kind": "posterior",
        "prior": "fixed",
        "prompt": False,
        "forgetting": 1,
    },
}
COMPARED = 8  # prompts of each adapter, for the routers that are not the default


def measure() -> Result:
    """Return the share of prompts in whose answers their own adapter has the largest weight."""
    names = list(experts.ADAPTERS)
    base = base_model()
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    index = PromptSimilarity(
        {name: file.read_text("utf-8").splitlines() for name, file in experts.EXAMPLES.items()}
    )
    engine = InProcessEngine(
        base,
        experts.ADAPTERS,
        dtype="bfloat16",
        max_loras=len(names),
        max_num_seqs=16 * len(names),
        kv_blocks=None,
        kv_cache_memory_bytes=768 << 20,
    )

    def shares(router: object, count: int) -> dict[str, float]:
        """Return by adapter the share of its prompts that it mostly answers."""
        texts = [(name, text) for name in names for text in held_out_prompts(name, count)]
        jobs, members = [], []
        for number, (_, text) in enumerate(texts):
            messages = [{"role": "user", "content": text}]
            prompt = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True
            )["input_ids"]
            plan = route(_plan(router, names), text, index)
            members.append([member.model for member in plan.members])
            rows = tuple(
                Row(weight, engine.adapters[member.model])
                for member, weight in zip(plan.members, plan.weights, strict=True)
            )
            params = {"max_tokens": ANSWER_TOKENS, "ignore_eos": False}
            mixture = engine_mixture(plan)
            jobs.append(
                Job(tuple(prompt), rows, params=params, mixture=mixture, report=str(number))
            )
        engine.run(jobs, max_steps=100_000)
        right: dict[str, list[bool]] = {name: [] for name in names}
        for (name, _), job, models in zip(texts, jobs, members, strict=True):
            [report] = engine.report(str(job.report))
            right[name].append(models[int(np.argmax(report["weights"]))] == name)
        return {name: sum(of_one) / count for name, of_one in right.items()}

    results = {
        label: shares(router, HELD_OUT if label == "default" else COMPARED)
        for label, router in ROUTERS.items()
    }
    show(f"Prompts mostly answered by their adapter; {HELD_OUT} each for the default, bfloat16:")
    rows = [
        (label, f"{_mean(list(found.values())):.1%}", *(f"{v:.0%}" for v in found.values()))
        for label, found in results.items()
    ]
    show(table(("posterior router", "all", *names), rows))
    return Result(_mean(list(results["default"].values())))


def _plan(router: object, names: Sequence[str]) -> Any:
    value = {"recipe": "mixture", "experts": list(names), "router": router}
    return parse_composition(value, known=(BASE, *names), limits=Limits(max_members=len(names)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
