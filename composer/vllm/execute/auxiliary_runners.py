"""The auxiliary models of a worker: one model runner each, run before the base model samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT

from composer.vllm.auxiliary.config import engine_config, kv_cache
from composer.vllm.auxiliary.spec import Auxiliary
from composer.vllm.execute.batch_view import BatchView
from composer.vllm.execute.split_step import RunnerOutput, merge, split
from composer.vllm.releases import kv_cache_config
from composer.vllm.schedule.gang import RowTag


class AuxiliaryRunner:
    """One auxiliary model: its configuration, its model runner and its batch."""

    view: BatchView  # after `load`

    def __init__(self, base: VllmConfig, auxiliary: Auxiliary) -> None:
        """Load nothing yet.

        Raises:
            ValueError: the model cannot run beside the base model.
        """
        self.auxiliary = auxiliary
        self.config = engine_config(base, auxiliary)
        self._base = base

    @property
    def runner(self) -> Any:
        return self.view.runner

    def load(
        self, runner_class: type, device: torch.device, view_of: Callable[[Any], BatchView]
    ) -> None:
        """Load the model into a runner of this class, behind the view that `view_of` makes."""
        with set_current_vllm_config(self.config):
            runner = runner_class(self.config, device)
            runner.load_model()
        self.view = view_of(runner)
        self.view.install_forced_sampler()

    def initialize_kv_cache(self, base: KVCacheConfig) -> None:
        """Allocate the block pool, with the block size and layout of the base model's cache.

        Raises:
            ValueError: the layers need another cache than the scheduler has planned.
        """
        cache_config = self.config.cache_config
        cache_config.block_size = min(g.kv_cache_spec.block_size for g in base.kv_cache_groups)
        cache_config.kv_cache_layout = base.kv_cache_layout
        [group] = self.kv_cache.kv_cache_groups
        specs = self.runner.get_kv_cache_spec()
        pages = [spec.page_size_bytes for spec in specs.values()]
        if pages != [group.kv_cache_spec.page_size_bytes] * len(group.layer_names):
            raise ValueError(
                f"the auxiliary model {self.auxiliary.name!r} has layers without a plain key-value "
                "cache (latent attention, state spaces, shared caches); use another model"
            )
        with set_current_vllm_config(self.config):
            config = kv_cache_config(self.config, specs, self.auxiliary.kv_memory_bytes)
            config.kv_cache_layout = base.kv_cache_layout
            self.runner.initialize_kv_cache(config)

    @property
    def kv_cache(self) -> KVCacheConfig:
        """The block pool that the scheduler has planned."""
        return kv_cache(self._base, self.auxiliary, self.config.model_config)

    def computes(self, model_of: Mapping[str, str]) -> Callable[[str], bool]:
        """Return a predicate: whether this model computes a request."""
        return lambda request_id: model_of.get(request_id) == self.auxiliary.name


class AuxiliaryRunners:
    """All auxiliary models of a worker, and the way of a step through them."""

    def __init__(self, runners: Sequence[AuxiliaryRunner]) -> None:
        self.runners = runners
        self.model_of: dict[str, str] = {}  # request id -> auxiliary model, while it lives
        self._running: list[AuxiliaryRunner] = []  # in the step in progress

    def __bool__(self) -> bool:
        return bool(self.runners)

    @torch.inference_mode()
    def execute(self, output: SchedulerOutput, base: BatchView) -> SchedulerOutput:
        """Run the auxiliary models and return what is left of the step for the base model.

        A step without auxiliary rows costs a look at its new requests.
        """
        model_of = self.model_of
        for new in output.scheduled_new_reqs:
            tag = RowTag.of(new.sampling_params)
            if tag is not None and tag.model is not None:
                model_of[new.req_id] = tag.model
        if not model_of:
            return output
        self._running = []
        for auxiliary in self.runners:
            part = split(output, auxiliary.computes(model_of), base=False)
            if part.num_scheduled_tokens:
                self._running.append(auxiliary)
            elif part.finished_req_ids or auxiliary.view.batch_requests:
                auxiliary.view.skip_step()
            else:
                continue  # the step does not concern this model
            auxiliary.runner.execute_model(part)
        rest = split(output, lambda request_id: request_id not in model_of, base=True)
        if not rest.num_scheduled_tokens:
            base.skip_step()
        for request_id in output.finished_req_ids:
            model_of.pop(request_id, None)
        return rest

    @property
    def running(self) -> bool:
        """Whether an auxiliary model takes part in the step in progress."""
        return bool(self._running)

    def finish(self, base: RunnerOutput | None) -> RunnerOutput:
        """End the step: the base model has sampled and passed on the tokens of all rows.

        `base` is its output, which is None where it had nothing to compute on the V2 model runner.
        """
        running, self._running = self._running, []
        outputs = [auxiliary.runner.sample_tokens(None) for auxiliary in running]
        return merge([base or EMPTY_MODEL_RUNNER_OUTPUT, *outputs])
