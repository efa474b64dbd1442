"""Train a gate from example texts of each adapter.

Training states are computed as the engine will compute them: the base model reads the prompt, and
the example's adapter reads the answer, from the last token of the prompt on. In a conversation, any
adapter may have computed the tokens before a turn. So the state that chooses the first adapter of
the answer is also taken from other adapters that read the last few tokens of the prompt, or all.
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

HELD_OUT = 5  # hold out one example in five
MAX_POSITIONS = 48  # per example, including the first
TOKENS_BEFORE = (1, 2, 8, 32, 10**9)  # tokens before a turn that another adapter has computed
MAX_OTHERS = 2  # other adapters per example; twelve took three times as long, for no better gate
NEVER = -1e4  # bias of a base model without examples: it only reads the prompt
SEED = 0

Step = Callable[[int, int, str], None]  # done, total, what
AccuracyByClass = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trained:
    """A gate with its accuracy: the share of held-out positions with the right choice, over all
    classes and by class."""

    gate: Gate
    accuracy: float
    by_class: AccuracyByClass
    learned: int  # positions
    held_out: int  # positions


def train_gate(
    base: Path,
    adapters: Mapping[str, Path],
    digests: Mapping[str, str | None],
    examples: Mapping[str, Sequence[Example]],
    step: Step = lambda done, total, what: None,
) -> Trained:
    """Train a gate. Each adapter needs `examples`, by its name; those of the base are optional.

    Raises:
        GateError: an adapter has no examples, examples have no adapter, or `base` is not a model.
    """
    _check(adapters, examples)
    classes = (BASE, *sorted(adapters))
    texts = [(classes.index(name), text) for name in sorted(examples) for text in examples[name]]
    held = _held_out([label for label, _ in texts])
    rng = random.Random(SEED)
    readers = [_readers(label, len(classes), rng) for label, _ in texts]
    total = sum(map(len, readers)) + EPOCHS
    count = 0

    def done(more: int, what: str) -> None:
        nonlocal count
        count += more
        step(count, total, what)

    done(0, "loading the model")
    model = HiddenStates(base, adapters)
    # By whether an example is held out: states [N, H] float32, labels [N] int64.
    samples: dict[bool, list[tuple[torch.Tensor, torch.Tensor]]] = {False: [], True: []}
    for label, name in enumerate(classes):
        indices = [i for i, reading_classes in enumerate(readers) if label in reading_classes]
        readings = [_reading(texts[i][1], texts[i][0] == label, rng) for i in indices]
        adapter = None if name == BASE else name
        for n, computed in model.under(adapter, readings, partial(done, what=name)):
            i = indices[n]
            sample = computed[_sampled_positions(len(computed))]
            samples[held[i]].append((sample, torch.full((len(sample),), texts[i][0])))
    (states, labels), (held_states, held_labels) = (_joined(samples[h]) for h in (False, True))
    linear = fit(states, labels, len(classes), partial(done, what="fit"))
    correct = linear(held_states).argmax(-1) == held_labels
    weight, bias = _without_unknown(linear, labels, len(classes))
    by_class = {
        name: float(correct[held_labels == i].float().mean())
        for i, name in enumerate(classes)
        if (held_labels == i).any()
    }
    accuracy = float(correct.float().mean())
    gate = Gate(
        classes,
        weight,
        bias,
        {name: None if name == BASE else digests.get(name) for name in classes},
        fingerprint(base),
        {"accuracy": f"{accuracy:.4f}", "examples": str(len(texts))},
    )
    return Trained(gate, accuracy, by_class, len(labels), len(held_labels))


def _check(adapters: Mapping[str, Path], examples: Mapping[str, Sequence[Example]]) -> None:
    if not adapters:
        raise GateError("a gate chooses between adapters, and there are none. Give --adapters.")
    if BASE in adapters:
        raise GateError(f"an adapter cannot be called '{BASE}': that is the model without one.")
    if missing := sorted(adapters.keys() - examples.keys()):
        raise GateError(
            f"adapter '{missing[0]}' has no examples. Give --examples {missing[0]}=FILE."
        )
    if unknown := sorted(examples.keys() - adapters.keys() - {BASE}):
        raise GateError(f"there are examples of '{unknown[0]}', which is not one of the adapters.")


def _readers(label: int, count: int, rng: random.Random) -> set[int]:
    """Return the classes that read an example: its own and some others."""
    others = [other for other in range(count) if other != label]
    return {label, *rng.sample(others, min(MAX_OTHERS, len(others)))}


def _reading(example: Example, by_own_adapter: bool, rng: random.Random) -> Reading:
    """Return the whole answer for the example's own adapter, for others the position before it."""
    positions = example.positions()
    if by_own_adapter:
        return Reading(example.tokens, max(example.answer - 1, 0), positions)
    first = positions.start
    since = max(0, first + 1 - rng.choice(TOKENS_BEFORE))
    return Reading(example.tokens[: first + 1], since, range(first, first + 1))


def _held_out(labels: Sequence[int]) -> list[bool]:
    """Return which examples to hold out: of each class one in `HELD_OUT`, and at least one."""
    rng = random.Random(SEED)
    chosen: set[int] = set()
    for label in set(labels):
        of_class = [i for i, other in enumerate(labels) if other == label]
        chosen.update(rng.sample(of_class, max(1, len(of_class) // HELD_OUT)))
    return [i in chosen for i in range(len(labels))]


def _sampled_positions(count: int) -> list[int]:
    """Return at most `MAX_POSITIONS` indices below `count`: half of them are the first indices, the
    others are evenly spaced among the rest."""
    if count <= MAX_POSITIONS:
        return list(range(count))
    first = MAX_POSITIONS // 2
    return [*range(first), *np.linspace(first, count - 1, MAX_POSITIONS - first, dtype=int)]


def _joined(
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([states for states, _ in parts]), torch.cat([labels for _, labels in parts])


def _without_unknown(
    linear: Linear, labels: torch.Tensor, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight `[C, H]` and bias `[C]`, with which a class without examples never wins."""
    weight, bias = linear.weight.numpy().copy(), linear.bias.numpy().copy()
    for label in set(range(count)) - set(labels.tolist()):
        weight[label], bias[label] = 0.0, NEVER
    return weight, bias
