"""Example texts of an adapter, one per line of a file: what its gate learns from.

    plain text                                     all of it is the adapter's
    {"prompt": "...", "answer": "..."}             the prompt is text for the model as it stands
    {"messages": [...], "answer": "..."}           messages go through the chat template
    {"messages": [..., {"role": "assistant", ...}]}   the answer is the last message

`prefix` beside `messages` is what the assistant has said already, before the adapter takes over in
the middle of an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from composer.mixtures.gate_file import GateError

SHORTEST = 3
"""Tokens: the adapter of a position is chosen by the state before it, and predicts what follows."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and where the answer begins."""

    tokens: tuple[int, ...]
    answer: int

    def positions(self) -> range:
        """The positions whose hidden state chooses the adapter for a token of the answer.

        Token i is predicted at the position i-1, whose adapter the state at i-2 chooses.
        """
        return range(max(self.answer - 2, 0), len(self.tokens) - 2)


def read_examples(path: Path, tokenizer: Any, most: int, longest: int) -> list[Example]:
    """The first `most` examples of a file; texts beyond `longest` tokens lose their end.

    `tokenizer` is that of the base model, by transformers.

    Raises:
        GateError: a line is no example, or there is none.
        OSError: the file cannot be read.
    """
    found: list[Example] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if len(found) == most:
                break
            example = _example(line.strip(), tokenizer, f"{path}, line {number}")
            found.append(Example(example.tokens[:longest], example.answer))
            if not found[-1].positions():
                _fail(f"{path}, line {number}", f"has no answer within {longest} tokens")
    if len(found) < 2:
        _fail(str(path), f"has {len(found)} examples, and two are the least")
    return found


def _example(line: str, tokenizer: Any, where: str) -> Example:
    if not line.startswith("{"):
        return _joined("", line, tokenizer)
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        _fail(where, f"begins like JSON and is none: {error}")
    if unknown := value.keys() - {"prompt", "messages", "prefix", "answer"}:
        _fail(where, f"has the unknown field {min(unknown)!r}")
    if ("prompt" in value) == ("messages" in value):
        _fail(where, "needs either 'prompt' or 'messages'")
    if "prompt" in value:
        if "prefix" in value:
            _fail(where, "has a 'prefix' beside 'prompt', to whose end it belongs")
        return _joined(_text(value, "prompt", where), _text(value, "answer", where), tokenizer)
    return _conversation(value, tokenizer, where)


def _conversation(value: Mapping[str, Any], tokenizer: Any, where: str) -> Example:
    messages = value["messages"]
    if not (isinstance(messages, list) and all(isinstance(m, dict) for m in messages) and messages):
        _fail(where, "has 'messages' that are no list of objects")
    if "answer" in value:
        answer = _text(value, "answer", where)
    elif messages[-1].get("role") == "assistant" and "prefix" not in value:
        answer = str(messages[-1].get("content", ""))
        messages = messages[:-1]
    else:
        _fail(where, "has no 'answer', and no last message of the assistant")
    try:
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise what it likes
        _fail(where, f"does not fit the chat template: {error}")
    return _joined(str(prompt) + str(value.get("prefix", "")), answer, tokenizer)


def _joined(prompt: str, answer: str, tokenizer: Any) -> Example:
    """The two parts in tokens of their own, as the engine joins them.

    A prompt with a chat template has its special tokens as text; other texts get the tokenizer's.
    """
    templated = any(token in prompt for token in tokenizer.all_special_tokens)
    head: list[int] = tokenizer(prompt, add_special_tokens=not templated)["input_ids"]
    tail: list[int] = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return Example((*head, *tail), len(head))


def _text(value: Mapping[str, Any], key: str, where: str) -> str:
    if not (isinstance(value.get(key), str) and value[key]):
        _fail(where, f"has no text for {key!r}")
    return str(value[key])


def _fail(where: str, problem: str) -> NoReturn:
    raise GateError(
        f"{where} {problem}. Give one example per line: text, or JSON with 'prompt' and 'answer', "
        "or with 'messages'."
    )
