"""The worker of this platform, with a sampler that composes and adapters that come and go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.core.sched.output import SchedulerOutput

from composer.vllm.generators import RewindableGenerator
from composer.vllm.loading import AdapterLoader, Unready
from composer.vllm.sampler import ComposingSampler

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker

    from composer.vllm.cpu_lora import use_adapterwise_kernels
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class ComposerWorker(PlatformWorker):
    """Installs `ComposingSampler` in the model runner, and `AdapterLoader` beside it.

    The methods without an underscore that vLLM does not have are called by name, through
    `collective_rpc`, which gives a list with the answer of every worker.
    """

    _loader: AdapterLoader | None = None  # None where the engine runs without LoRA

    def init_device(self) -> None:
        super().init_device()
        runner = self.model_runner
        runner.sampler = ComposingSampler(
            logprobs_mode=runner.sampler.logprobs_mode,
            use_fp64_gumbel=runner.sampler.use_fp64_gumbel,
        )
        # Custom processors make vLLM copy all sampled tokens to the host in every step, in case
        # they read them. Ours does not, and a plain request must cost what it costs without us.
        runner.input_batch.logitsprocs_need_output_token_ids = False

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        if self.lora_config is None:
            return
        manager = self.model_runner.lora_manager
        if self.device.type == "cpu":
            use_adapterwise_kernels(manager._adapter_manager)
        self._loader = AdapterLoader(manager)

    def execute_model(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        output = super().execute_model(scheduler_output, *args, **kwargs)
        if self.device.type == "cpu":
            for new in scheduler_output.scheduled_new_reqs:
                self._make_rewindable(new.req_id)
        if self._loader is not None:
            self._loader.sweep(self._adapters_in_use)
        return output

    def prefetch_adapters(self, adapters: Iterable[tuple[str, int, str]]) -> list[Unready]:
        """Begin to read adapters, given as name, id and path, in the background.

        Returns those that are not in memory yet, empty if all are: call it until then, and send the
        request. `composer.vllm.loading.still_loading` reads the answers of all workers.
        """
        wanted = [LoRARequest(name, id, path) for name, id, path in adapters]
        if self._loader is None:
            off = "the engine runs without adapters; start it with --enable-lora"
            return [(request.lora_int_id, off) for request in wanted]
        return self._loader.prefetch(wanted)

    def retire_adapter(self, id: int) -> None:
        """Take an adapter out of memory and its slot: now, or when the last request that uses it
        has left the model runner. For when no further request will come with it."""
        if self._loader is not None:
            self._loader.retire(id)
            self._loader.sweep(self._adapters_in_use)

    def resident_adapters(self) -> list[int]:
        """Ids of the adapters in memory, sorted."""
        return self._loader.resident() if self._loader is not None else []

    def _adapters_in_use(self) -> set[int]:
        """Those of all requests that the model runner knows, preempted ones included."""
        requests = self.model_runner.requests.values()
        return {r.lora_request.lora_int_id for r in requests if r.lora_request is not None}

    def _make_rewindable(self, request_id: str) -> None:
        """Replace the generator of a seeded request before it is first drawn from."""
        request = self.model_runner.requests.get(request_id)
        if request is None or request.generator is None:
            return
        generator = RewindableGenerator(device="cpu")
        generator.set_state(request.generator.get_state())
        request.generator = generator
        batch = self.model_runner.input_batch
        batch.generators[batch.req_id_to_index[request_id]] = generator
