"""The worker of this platform, with a sampler that composes."""

from __future__ import annotations

from typing import Any

from vllm.platforms import current_platform
from vllm.v1.core.sched.output import SchedulerOutput

from composer.vllm.generators import RewindableGenerator
from composer.vllm.sampler import ComposingSampler

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker

    from composer.vllm.cpu_lora import use_adapterwise_kernels
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class ComposerWorker(PlatformWorker):
    """Installs `ComposingSampler` in the model runner."""

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
        if self.device.type == "cpu" and self.lora_config is not None:
            use_adapterwise_kernels(self.model_runner.lora_manager._adapter_manager)

    def execute_model(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        output = super().execute_model(scheduler_output, *args, **kwargs)
        if self.device.type == "cpu":
            for new in scheduler_output.scheduled_new_reqs:
                self._make_rewindable(new.req_id)
        return output

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
