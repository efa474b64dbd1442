"""Example texts of an adapter, one per line of a file, from which a gate learns.

    plain text                                     all of it is the adapter's answer
    {"prompt": "...", "answer": "..."}             the prompt is a text without chat template
    {"messages": [...], "answer": "..."}           messages go through the chat template
    {"messages": [..., {"role": "assistant", ...}]}   the answer is the last message

`prefix`, with `messages`, is the beginning of the assistant's answer, if the adapter takes over in
the middle of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from composer.mixtures.gate_file import GateError

MIN_TOKENS = 3
"""Of an example: a state chooses the adapter of the next position, which predicts a third token."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids; the answer begins at index `answer`."""

    tokens: tuple[int, ...]
    answer: int

    def positions(self) -> range:
        """Return the positions whose hidden states choose the adapters for the answer's tokens.

        Position i-1 predicts token i, and the state at i-2 chooses the adapter of position i-1.
        """
        return range(max(self.answer - 2, 0), len(self.tokens) - 2)


def read_examples(path: Path, tokenizer: Any, max_examples: int, max_tokens: int) -> list[Example]:
    """Return the first `max_examples` of a file, each truncated to `max_tokens`.

    `tokenizer` is the base model's, from transformers.

    Raises:
        GateError: a line is not an example, or there are fewer than two.
        OSError: the file cannot be read.
    """
    examples: list[Example] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if len(examples) == max_examples:
                break
            example = _example(line.strip(), tokenizer, f"{path}, line {number}")
            examples.append(Example(example.tokens[:max_tokens], example.answer))
            if not examples[-1].positions():
                _fail(f"{path}, line {number}", f"has no answer within {max_tokens} tokens")
    if len(examples) < 2:
        _fail(str(path), f"has {len(examples)} examples; a gate needs at least two")
    return examples


def _example(line: str, tokenizer: Any, where: str) -> Example:
    if not line.startswith("{"):
        return _joined("", line, tokenizer)
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        _fail(where, f"begins like JSON but is not JSON: {error}")
    if unknown := value.keys() - {"prompt", "messages", "prefix", "answer"}:
        _fail(where, f"has the unknown field {min(unknown)!r}")
    if ("prompt" in value) == ("messages" in value):
        _fail(where, "needs either 'prompt' or 'messages'")
    if "prompt" in value:
        if "prefix" in value:
            _fail(where, "has both 'prefix' and 'prompt'; append the prefix to the prompt")
        return _joined(_text(value, "prompt", where), _text(value, "answer", where), tokenizer)
    return _conversation(value, tokenizer, where)


def _conversation(value: Mapping[str, Any], tokenizer: Any, where: str) -> Example:
    messages = value["messages"]
    if not (isinstance(messages, list) and all(isinstance(m, dict) for m in messages) and messages):
        _fail(where, "has 'messages' that are not a list of objects")
    if "answer" in value:
        answer = _text(value, "answer", where)
    elif messages[-1].get("role") == "assistant" and "prefix" not in value:
        answer = str(messages[-1].get("content", ""))
        messages = messages[:-1]
    else:
        _fail(where, "has neither 'answer' nor a last message of the assistant")
    try:
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise any exception
        _fail(where, f"does not fit the chat template: {error}")
    return _joined(str(prompt) + str(value.get("prefix", "")), answer, tokenizer)


def _joined(prompt: str, answer: str, tokenizer: Any) -> Example:
    """Tokenize prompt and answer separately and join them, as the engine does.

    A prompt with a chat template contains its special tokens as text; others get the tokenizer's.
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
