"""A gate, from example texts of each adapter.

It is trained on states as it will meet them. The base model reads the prompt, and the example's own
adapter the answer, from the last token of the prompt on, as the engine does. The state that decides
about the first token may come from anybody who spoke before: so this one is also taken from others,
as if they had computed the last few tokens of the prompt, or all of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from composer.fields import BASE
from composer.gate_training.examples import Example
from composer.gate_training.fit import EPOCHS, Linear, fit
from composer.gate_training.hidden_states import HiddenStates, Reading
from composer.mixtures.gate_file import Gate, GateError, fingerprint

HELD_OUT = 5  # one example in five is not learned from
MOST_POSITIONS = 48  # of one example, the first ones among them
SPOKEN_BEFORE = (1, 2, 8, 32, 10**9)  # tokens that another adapter has computed before a turn
OTHERS = 2  # at most so many; twelve took more than three times as long, and no better gate
NEVER = -1e4  # bias of the base model where no example is its own: it only reads the prompt
SEED = 0

Step = Callable[[int, int, str], None]  # done, in all, what
AccuracyByClass = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trained:
    """accuracy: share of held-out positions, and of each class alone, whose choice is right."""

    gate: Gate
    accuracy: float
    by_class: AccuracyByClass
    learned: int  # positions
    held_out: int


def train_gate(
    base: Path,
    adapters: Mapping[str, Path],
    digests: Mapping[str, str | None],
    examples: Mapping[str, Sequence[Example]],
    step: Step = lambda done, total, what: None,
) -> Trained:
    """`examples` by the name of an adapter, or of the base model; every adapter has some.

    Raises:
        GateError: an adapter has no examples, or examples no adapter; or the base is no model.
    """
    _check(adapters, examples)
    classes = (BASE, *sorted(adapters))
    texts = [(classes.index(name), text) for name in sorted(examples) for text in examples[name]]
    held = _held_out([label for label, _ in texts])
    rng = random.Random(SEED)
    readers = [_readers(own, len(classes), rng) for own, _ in texts]
    total = sum(map(len, readers)) + EPOCHS
    count = 0

    def done(more: int, what: str) -> None:
        nonlocal count
        count += more
        step(count, total, what)

    model = HiddenStates(base, adapters)
    parts: dict[bool, list[tuple[torch.Tensor, torch.Tensor]]] = {False: [], True: []}
    for label, name in enumerate(classes):
        read = [i for i, own in enumerate(readers) if label in own]
        readings = [_reading(texts[i][1], texts[i][0] == label, rng) for i in read]
        reader = None if name == BASE else name
        for number, found in model.under(reader, readings, partial(done, what=name)):
            i = read[number]
            few = found[_some(len(found))]
            parts[held[i]].append((few, torch.full((len(few),), texts[i][0])))
    (states, labels), (new, wanted) = (_joined(parts[held]) for held in (False, True))
    linear = fit(states, labels, len(classes), partial(done, what="fit"))
    right = linear(new).argmax(-1) == wanted
    weight, bias = _without_unknown(linear, labels, len(classes))
    by_class = {
        name: float(right[wanted == i].float().mean())
        for i, name in enumerate(classes)
        if (wanted == i).any()
    }
    accuracy = float(right.float().mean())
    gate = Gate(
        classes,
        weight,
        bias,
        {name: None if name == BASE else digests.get(name) for name in classes},
        fingerprint(base),
        {"accuracy": f"{accuracy:.4f}", "examples": str(len(texts))},
    )
    return Trained(gate, accuracy, by_class, len(labels), len(wanted))


def _check(adapters: Mapping[str, Path], examples: Mapping[str, Sequence[Example]]) -> None:
    if not adapters:
        raise GateError("a gate chooses between adapters, and there are none. Give --adapters.")
    if BASE in adapters:
        raise GateError(f"an adapter cannot be called '{BASE}': that is the model without one.")
    if lacking := sorted(adapters.keys() - examples.keys()):
        raise GateError(
            f"adapter '{lacking[0]}' has no examples. Give --examples {lacking[0]}=FILE."
        )
    if unknown := sorted(examples.keys() - adapters.keys() - {BASE}):
        raise GateError(f"there are examples of '{unknown[0]}', which is none of the adapters.")


def _readers(own: int, count: int, rng: random.Random) -> set[int]:
    """The classes under which an example is read: its own and some others."""
    others = [label for label in range(count) if label != own]
    return {own, *rng.sample(others, min(OTHERS, len(others)))}


def _reading(example: Example, own: bool, rng: random.Random) -> Reading:
    """The whole answer under the example's own adapter; of others, the state before it."""
    positions = example.positions()
    if own:
        return Reading(example.tokens, max(example.answer - 1, 0), positions)
    first = positions.start
    since = max(0, first + 1 - rng.choice(SPOKEN_BEFORE))
    return Reading(example.tokens[: first + 1], since, range(first, first + 1))


def _held_out(labels: Sequence[int]) -> list[bool]:
    """Which examples are held out: of each class one in `HELD_OUT`, and at least one."""
    rng = random.Random(SEED)
    chosen: set[int] = set()
    for label in set(labels):
        own = [i for i, other in enumerate(labels) if other == label]
        chosen.update(rng.sample(own, max(1, len(own) // HELD_OUT)))
    return [i in chosen for i in range(len(labels))]


def _some(count: int) -> list[int]:
    """At most `MOST_POSITIONS` of the positions: the first half of them, and others in between."""
    if count <= MOST_POSITIONS:
        return list(range(count))
    first = MOST_POSITIONS // 2
    return [*range(first), *np.linspace(first, count - 1, MOST_POSITIONS - first, dtype=int)]


def _joined(
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([states for states, _ in parts]), torch.cat([labels for _, labels in parts])


def _without_unknown(
    linear: Linear, labels: torch.Tensor, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias; a class without examples is never the largest."""
    weight, bias = linear.weight.numpy().copy(), linear.bias.numpy().copy()
    for label in set(range(count)) - set(labels.tolist()):
        weight[label], bias[label] = 0.0, NEVER
    return weight, bias
