"""Converted adapters in the engine, against PEFT with the adapters as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoHaConfig, LoraConfig, PeftConfig

from adapters.weight_space.convert.conversion import convert
from adapters.weight_space.convert.convert_spec import ConvertJob
from composer.engine_plan import LoadedAdapter, Row
from composer.reference.oracle import Oracle
from tests.engine.harness import Job, WatchedEngine, count_mismatches
from tests.support.peft_adapters import train

PROMPT = tuple(range(40, 60))
TOKENS = [45, 51, 58]
TARGETS = ["q_proj", "down_proj"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("number", "config"),
    [
        (6101, LoraConfig(r=4, target_modules=TARGETS, trainable_token_indices=TOKENS)),
        (6102, LoHaConfig(r=3, target_modules=TARGETS)),
    ],
)
def test_answers_are_those_of_the_original(
    number: int, config: PeftConfig, roomy: WatchedEngine, zoo_base: Path, tmp_path: Path
) -> None:
    train(config, tmp_path / "own", step=0.2)
    convert(ConvertJob(adapter=tmp_path / "own", base=zoo_base), tmp_path / "converted")
    own = LoadedAdapter("own", number, str(tmp_path / "converted"))
    oracle = Oracle(zoo_base, {"own": tmp_path / "own"})
    params = {"max_tokens": 8}
    jobs = [
        Job(PROMPT, params=params),
        Job(PROMPT, adapter=own, params=params),
        Job(PROMPT, (Row(1.5, own), Row(-0.5)), params=params),
    ]
    answers = roomy.answers(jobs)
    wrong, _ = count_mismatches(oracle, jobs, answers)
    assert wrong == 0
    changed, _ = count_mismatches(oracle, jobs[1:], [answers[0]] * 2)
    assert changed  # the adapter matters here
    roomy.retire(own)
