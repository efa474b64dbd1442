"""The layout of a step's gangs in the batches of all models, as index tensors on the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from composer.tensors.compose import Composition
from composer.tensors.gang_rows import GangRows
from composer.vllm.execute.batch_view import BatchView
from composer.vllm.schedule.gang import RowTag


class BatchLayout:
    """Builds the `Composition` of a step, anew only when a batch has changed."""

    def __init__(self, device: torch.device, pin_memory: bool) -> None:
        self._device = device
        self._pin_memory = pin_memory
        self._built: Sequence[int | None] = ()  # changes of every batch at the last build
        self._composition: Composition | None = None
        self.gangs: Sequence[GangRows] = ()
        """The gangs of the last `composition`."""

    def composition(self, views: Sequence[BatchView]) -> Composition | None:
        """Return the gangs of the step in progress, None if there are none.

        Args:
            views: the base model's batch, then those of the auxiliary models in their order. The
                batch of a model that takes no part in the step counts as empty.
        """
        changes = [view.tags.changes if view.computing else None for view in views]
        if changes != self._built:
            self._built = changes
            self.gangs = gangs = _complete_gangs(
                [view.tags.by_row if view.computing else {} for view in views]
            )
            self._composition = (
                Composition(gangs, self._device, self._pin_memory) if gangs else None
            )
        return self._composition


def _complete_gangs(batches: Sequence[Mapping[int, RowTag]]) -> list[GangRows]:
    """Return the gangs all of whose rows are in one of the batches, the base model's first.

    A gang with missing rows is still prefilling: vLLM discards what its rows sample.
    """
    places: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)  # gang -> k -> row, model
    leaders: list[RowTag] = []
    for model, tags in enumerate(batches):
        for row, tag in tags.items():
            places[tag.gang][tag.index] = (row, model)
            if tag.index == 0:
                leaders.append(tag)
    gangs = []
    for tag in leaders:
        members = places[tag.gang]
        if len(members) == tag.size and tag.switch is None:
            rows, models = zip(*(members[k] for k in range(tag.size)), strict=True)
            of_tag = (tag.weights, tag.filters, models, tag.mixture, tag.gang, tag.log_softmax)
            gangs.append(GangRows(rows, *of_tag))
    return gangs
