"""What the claim `lm_eval` computes beside lm_eval; the claim itself takes minutes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.claims.lm_eval import CASES
from bench.lm_eval.harness import TASKS, Generated, Scored, read_samples
from bench.lm_eval.metrics import METRICS
from bench.lm_eval.transformers_loop import WINDOW, page_windows


@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 7])
def test_windows_score_each_token_of_a_page_once(length: int) -> None:
    page = list(range(1, length + 1))
    windows = list(page_windows(page, prefix=0))
    assert [token for ids, start in windows for token in ids[start:]] == page
    for ids, start in windows:
        assert start >= 1, "the first token of a window has nothing before it"
        assert len(ids) <= WINDOW + 1
        assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert len(windows[-1][0]) == min(length, WINDOW) + 1, (
        "the last window reads all it has room for"
    )


def test_the_metrics_of_hand_made_items() -> None:
    log = math.log
    endings = {"choices": ["ab", "abcd"], "gold": 1}
    assert METRICS["hellaswag"]([(endings, [-3.0, -4.0])]) == {"acc,none": 0, "acc_norm,none": 1}
    assert METRICS["truthfulqa_mc1"]([({}, [-1.0, -2.0]), ({}, [-2.0, -1.0])]) == {"acc,none": 0.5}
    answers = {"mc2_targets": {"labels": [1, 0, 1]}}
    share = METRICS["truthfulqa_mc2"]([(answers, [log(0.1), log(0.2), log(0.1)])])
    assert share == {"acc,none": pytest.approx(0.5)}
    pages = METRICS["wikitext"]([({"page": "a é"}, [-2 * log(2)])])
    expected = {"word_perplexity": 2, "byte_perplexity": 2**0.5, "bits_per_byte": 0.5}
    assert pages == {f"{name},none": pytest.approx(value) for name, value in expected.items()}


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (" 3 + 4 = 7\n#### 7\nSo 7.", 1, 1),
        ("#### 8, that is 7.", 0, 1),
        ("It costs $7", 0, 1),
        ("7 or 8", 0, 0),
        ("none", 0, 0),
    ],
)
def test_numbers_in_answers(text: str, strict: float, flexible: float) -> None:
    found = METRICS["gsm8k"]([({"answer": "3 + 4 = 7. #### 7"}, [text])])
    assert found == {"exact_match,strict-match": strict, "exact_match,flexible-extract": flexible}


def test_samples_are_read_as_lm_eval_logs_them(tmp_path: Path) -> None:
    """A line per item and filter."""
    generation = {"until": ["Q:"], "max_gen_toks": 9, "temperature": 0.0}
    lines = [
        ((("in", " out"),), [[["-1.5", "True"]]]),
        ((("a page",),), [["-2.5"]]),
        ((("ask", generation),), [["7"]]),
        ((("ask", generation),), [["7"]]),
    ]
    log = tmp_path / "samples.jsonl"
    log.write_text(
        "".join(
            json.dumps(
                {
                    "doc_id": min(number, 2),
                    "doc": {"number": number},
                    "arguments": {
                        f"gen_args_{i}": {f"arg_{j}": a for j, a in enumerate(args)}
                        for i, args in enumerate(arguments)
                    },
                    "resps": responses,
                }
            )
            + "\n"
            for number, (arguments, responses) in enumerate(lines)
        )
    )
    samples = read_samples(log)
    assert [sample.item["number"] for sample in samples] == [0, 1, 2]
    assert [request for sample in samples for request in sample.requests] == [
        Scored("in", " out", -1.5, True),
        Scored(None, "a page", -2.5, None),
        Generated("ask", ("Q:",), 9, "7"),
    ]


def test_every_group_of_a_case_has_its_file() -> None:
    groups = {path.read_text().split("group: ")[1].split()[0] for path in TASKS.glob("*.yaml")}
    assert {group for case in CASES for group in case.groups} == groups
    assert all("," not in case.model for case in CASES), "lm_eval splits model_args at commas"
