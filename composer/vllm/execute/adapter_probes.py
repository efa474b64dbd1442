"""Probes: requests by which the front end tries an adapter before others may use it.

An adapter whose numbers overflow in the engine's precision leaves NaN in the blocks of the KV cache
that its probe used. Attention kernels read whole blocks and multiply what is masked with 0, and
0 * NaN is NaN: the next request in such a block would get wrong answers. The blocks are therefore
cleaned before the first step that could give them to another request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from vllm.v1.core.sched.output import SchedulerOutput

from composer.vllm.execute.batch_view import BatchView

PREFIX = "probe-"
"""Prefix of the request ids of probes; those of clients begin with the kind of their answer."""

_PLAIN_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32})


class Probes:
    """The probes of one worker that are running, and whether they have failed."""

    def __init__(self) -> None:
        self._failed: dict[str, bool] = {}  # by request id

    def begin_step(self, step: SchedulerOutput, views: Iterable[BatchView]) -> None:
        """Before a step: note new probes, and clean up after those that gave up their blocks.

        A preempted probe stays known: it will be computed again from its first token. Cleaning must
        wait until its blocks are free, or a later step of the probe would not see what an earlier
        step did.
        """
        if self._failed:
            ended = [self._failed.pop(id, False) for id in step.finished_req_ids]
            preempted = self._failed.keys() & (step.preempted_req_ids or ())
            if any(ended) or any(self._failed[id] for id in preempted):
                for view in views:
                    clean(view.runner)
            self._failed.update(dict.fromkeys(preempted, False))
        for new in step.scheduled_new_reqs:
            if new.req_id.startswith(PREFIX):
                self._failed[new.req_id] = False

    def inspect(self, views: Iterable[BatchView]) -> None:
        """After the models have run: note whether a hidden state is not finite.

        Inspect steps with a probe only: reading the result waits for the device.
        """
        if self._failed and not all(
            bool(view.step.last_hidden_states.isfinite().all()) for view in views if view.computing
        ):
            self._failed = dict.fromkeys(self._failed, True)


def clean(runner: Any) -> None:
    """Replace what is not finite in the KV cache of a model runner, in place."""
    for cache in runner.kv_caches:
        if isinstance(cache, torch.Tensor) and cache.dtype in _PLAIN_DTYPES:
            torch.nan_to_num_(cache, nan=0.0, posinf=0.0, neginf=0.0)
