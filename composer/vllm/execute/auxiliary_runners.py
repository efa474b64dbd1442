"""The auxiliary models of a worker: one model runner each, run before the base model samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.v1.core.kv_cache_utils import get_kv_cache_configs
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.sampler import Sampler

from composer.vllm.auxiliary.config import engine_config, kv_cache
from composer.vllm.auxiliary.spec import Auxiliary
from composer.vllm.execute.batch import CompositionProcessor, processor_of
from composer.vllm.execute.split_step import RunnerOutput, merge, split
from composer.vllm.schedule.gang import RowTag


class ForcedSampler(Sampler):
    """Samples nothing: the rows of auxiliary models are companions and take their leaders' tokens.

    `tokens` `[A, 1]` int32 is set by the base model's sampler, which runs before; None where the
    base model had nothing to do, so that all rows are prefilling and vLLM discards their tokens.
    """

    tokens: torch.Tensor | None = None

    def forward(self, logits: torch.Tensor, *args: Any, **kwargs: Any) -> SamplerOutput:
        tokens, self.tokens = self.tokens, None
        if tokens is None:
            tokens = no_tokens(logits)
        return SamplerOutput(sampled_token_ids=tokens, logprobs_tensors=None)


class AuxiliaryRunner:
    """One auxiliary model: its configuration, its model runner, and what composing asks of it."""

    def __init__(self, base: VllmConfig, auxiliary: Auxiliary) -> None:
        """Raises `ValueError` where it cannot run beside the base model; nothing is loaded yet."""
        self.auxiliary = auxiliary
        self.config = engine_config(base, auxiliary)
        self._base = base
        self.runner: Any = None

    def load(self, runner_class: type, device: torch.device) -> None:
        with set_current_vllm_config(self.config):
            self.runner = runner_class(self.config, device)
            self.runner.load_model()
        self.runner.sampler = ForcedSampler()
        self.runner.input_batch.logitsprocs_need_output_token_ids = False

    def initialize_kv_cache(self, base: KVCacheConfig) -> None:
        """Allocate its block pool, after the base model's whose block size and layout it takes.

        Raises:
            ValueError: its layers need another cache than the scheduler has reckoned with.
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
            [config] = get_kv_cache_configs(self.config, [specs], [self.auxiliary.kv_memory_bytes])
            config.kv_cache_layout = base.kv_cache_layout
            self.runner.initialize_kv_cache(config)

    @property
    def kv_cache(self) -> KVCacheConfig:
        """Its block pool, as the scheduler reckons with it."""
        return kv_cache(self._base, self.auxiliary, self.config.model_config)

    @property
    def logits(self) -> torch.Tensor | None:
        """`[A, v]` of the step in progress; None if the model has no part in it."""
        state = self.runner.execute_model_state
        return state.logits if state is not None else None

    @property
    def processor(self) -> CompositionProcessor:
        """Where its rows stand in its batch."""
        return processor_of(self.runner)

    def owns(self, model_of: Mapping[str, str]) -> Callable[[str], bool]:
        """Whether a request id is one of its rows."""
        return lambda id: model_of.get(id) == self.auxiliary.name

    def concerned(self, part: SchedulerOutput) -> bool:
        """Whether it must hear of a step: rows of it compute, stand still or have left."""
        names = self.runner.input_batch.req_id_to_index
        return bool(part.num_scheduled_tokens or part.finished_req_ids or names)


class AuxiliaryRunners:
    """All auxiliary models of a worker, and the way of a step through them."""

    def __init__(self, runners: Sequence[AuxiliaryRunner]) -> None:
        self.runners = runners
        self.model_of: dict[str, str] = {}  # request id -> auxiliary model, while it lives
        self._running: list[AuxiliaryRunner] = []  # of the step in progress

    def __bool__(self) -> bool:
        return bool(self.runners)

    @torch.inference_mode()
    def execute(self, output: SchedulerOutput, base_runner: Any) -> SchedulerOutput:
        """Run the auxiliary models; what is left for the base model.

        A step without them costs a look at its new requests.
        """
        model_of = self.model_of
        for new in output.scheduled_new_reqs:
            tag = RowTag.of(new.sampling_params)
            if tag is not None and tag.model is not None:
                model_of[new.req_id] = tag.model
        if not model_of:
            return output
        self._running = []
        for one in self.runners:
            part = split(output, one.owns(model_of), base=False)
            if part.num_scheduled_tokens:
                self._running.append(one)
            elif one.concerned(part):
                forget_sampled(one.runner)
            else:
                continue
            one.runner.execute_model(part)
        rest = split(output, lambda id: id not in model_of, base=True)
        if not rest.num_scheduled_tokens:
            forget_sampled(base_runner)
        for name in output.finished_req_ids:
            model_of.pop(name, None)
        return rest

    @property
    def running(self) -> bool:
        """Whether one of them has a part in the step in progress."""
        return bool(self._running)

    def finish(self, base: RunnerOutput) -> RunnerOutput:
        """End the step: the base model has sampled, and its sampler left the tokens here."""
        running, self._running = self._running, []
        return merge([base, *(one.runner.sample_tokens(None) for one in running)])


def forget_sampled(runner: Any) -> None:
    """Before a step in which a model has nothing to compute.

    Under async scheduling vLLM puts the tokens of a model's last step into its next inputs. That
    is wrong for a row that is preempted in between; of all rows that stand still in a step vLLM's
    scheduler sends the tokens again.
    """
    runner.input_batch.prev_sampled_token_ids = None
    runner.input_batch.prev_req_id_to_index = None


def no_tokens(logits: torch.Tensor) -> torch.Tensor:
    """`[A, 1]` int32 for logits `[A, v]`: a token for every row, none of which is read."""
    return torch.zeros(len(logits), 1, dtype=torch.int32, device=logits.device)
