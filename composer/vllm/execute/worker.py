"""The worker of this platform, with a sampler that composes and adapters that come and go."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

from safetensors import SafetensorError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig

from composer.vllm.auxiliary.memory import room_beside
from composer.vllm.auxiliary.spec import from_additional_config
from composer.vllm.execute.adapter_loader import AdapterLoader, Unready
from composer.vllm.execute.adapter_probes import Probes
from composer.vllm.execute.adapter_switch import Switches
from composer.vllm.execute.auxiliary_runners import AuxiliaryRunner, AuxiliaryRunners
from composer.vllm.execute.mixture_state import MixtureRouting
from composer.vllm.execute.sampler import ComposingSampler
from composer.vllm.lifeline import obey_front_end
from composer.vllm.schedule.counts import GangFigures, figures_of
from composer.vllm.schedule.kv_blocks import kv_capacity
from composer.vllm.step_failures import Failures, attach
from composer.vllm.workarounds.cpu_generator import RewindableGenerator

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker

    from composer.vllm.workarounds.cpu_lora import use_adapterwise_kernels
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


logger = logging.getLogger(__name__)


class ComposerWorker(PlatformWorker):
    """Installs `ComposingSampler` in the model runner, `AdapterLoader` beside it, and auxiliary
    models.

    The methods without an underscore that vLLM does not have are called by name, through
    `collective_rpc`, which gives a list with the answer of every worker. Their `model` is the name
    of an auxiliary model, or None for the base model.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        obey_front_end()
        self._runners: dict[str | None, Any] = {}
        self._loaders: dict[str | None, AdapterLoader] = {}  # of the models with LoRA
        self._figures = GangFigures().as_dict()
        self._probes = Probes()

    def init_device(self) -> None:
        # First of all: models that do not go together are refused before anything is loaded.
        own = from_additional_config(self.vllm_config.additional_config)
        self.auxiliaries = AuxiliaryRunners([AuxiliaryRunner(self.vllm_config, a) for a in own])
        super().init_device()
        runner = self.model_runner
        runner.sampler = ComposingSampler(
            logprobs_mode=runner.sampler.logprobs_mode,
            use_fp64_gumbel=runner.sampler.use_fp64_gumbel,
        )
        # Custom processors make vLLM copy all sampled tokens to the host in every step, in case
        # they read them. Ours does not, and a plain request must cost what it costs without us.
        runner.input_batch.logitsprocs_need_output_token_ids = False
        runner.sampler.auxiliaries = self.auxiliaries.runners
        runner.sampler.runner = runner
        self.mixtures = runner.sampler.mixtures = MixtureRouting(self.device)
        self.switches: Switches | None = None  # without LoRA nothing can be switched

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        self._tell("reading the weights")
        super().load_model(*args, **kwargs)
        for one in self.auxiliaries.runners:
            one.load(type(self.model_runner), self.device)
        self._vocabulary = self.model_config.get_vocab_size()
        self._runners = {None: self.model_runner} | {
            one.auxiliary.name: one.runner for one in self.auxiliaries.runners
        }
        for name, runner in self._runners.items():
            if runner.lora_config is not None:
                if self.device.type == "cpu":
                    use_adapterwise_kernels(runner.lora_manager._adapter_manager)
                self._loaders[name] = AdapterLoader(runner.lora_manager)

    def determine_available_memory(self) -> int:
        self._tell("measuring the memory for the KV cache")
        return room_beside(
            [one.auxiliary for one in self.auxiliaries.runners],
            super().determine_available_memory(),
            explicit=self.cache_config.kv_cache_memory_bytes is not None,
            device=self.device,
        )

    def initialize_from_config(self, kv_cache_config: KVCacheConfig) -> None:
        super().initialize_from_config(kv_cache_config)
        self._kv_cache_config = kv_cache_config
        for one in self.auxiliaries.runners:
            one.initialize_kv_cache(kv_cache_config)
        # Now, because vLLM may have made a new batch for the block size of the cache.
        if self.model_runner.lora_config is not None:
            self.switches = self.model_runner.sampler.switches = Switches(self.model_runner)

    def compile_or_warm_up_model(self) -> Any:
        self._tell("warming up")
        return super().compile_or_warm_up_model()

    def _tell(self, doing: str) -> None:
        """Log a step of the start, once for all workers."""
        if self.rank == 0:
            logger.info("engine: %s", doing)

    def execute_model(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        self._figures = figures_of(scheduler_output) or self._figures
        finished, new = scheduler_output.finished_req_ids, scheduler_output.scheduled_new_reqs
        self._probes.follow(scheduler_output, self._runners.values())
        self.mixtures.forget(finished)
        self.mixtures.add(new)
        if self.switches is not None:
            self.switches.forget(finished)
            self.switches.add(new)
        if self.auxiliaries:
            scheduler_output = self.auxiliaries.execute(scheduler_output, self.model_runner)
        output = super().execute_model(scheduler_output, *args, **kwargs)
        if self.device.type == "cpu":
            for request in scheduler_output.scheduled_new_reqs:
                self._make_rewindable(request.req_id)
        self._sweep()
        # None: there is something to sample. The base model alone may have nothing.
        return None if self.auxiliaries.running else output

    def sample_tokens(self, grammar_output: GrammarOutput | None) -> Any:
        if self.mixtures:
            for runner in self._runners.values():
                self.mixtures.read_prompts(runner, self._vocabulary)
        self._probes.look(self._runners.values())
        state, sampler = self.model_runner.execute_model_state, self.model_runner.sampler
        if self.switches and state is not None:
            sampler.hidden = state.sample_hidden_states
        sampler.constrained = grammar_output is not None
        output = super().sample_tokens(grammar_output)
        if self.auxiliaries.running:
            output = self.auxiliaries.finish(output)
        failures = self._take_failures()
        return attach(output, failures) if failures else output

    def _take_failures(self) -> Failures:
        """What the step could not load."""
        failures = Failures()
        for model, loader in self._loaders.items():
            for id, problem in loader.take_failed().items():
                failures.adapters[model, id] = problem
        if self.switches is not None:
            failures.requests = self.switches.take_failed()
        return failures

    def kv_capacities(self) -> list[tuple[str | None, int, tuple[int, ...]]]:
        """What the KV cache of each model holds for requests: its name, None for the base model,
        and the `kv_blocks` and `block_tokens` of a `composer.capacity.ModelCapacity`."""
        caches: dict[str | None, KVCacheConfig] = {None: self._kv_cache_config}
        for one in self.auxiliaries.runners:
            caches[one.auxiliary.name] = one.kv_cache
        return [(name, *kv_capacity(cache, self.vllm_config)) for name, cache in caches.items()]

    def composer_stats(self) -> dict[str, Any]:
        """What the scheduler counts, as of the last step:

        * `gang_waits`: seconds from the arrival of a composed request to its first admission, as
          `count`, `sum_s` and `buckets`, counts of at most so many seconds by the bound as text
          ("0.01" to "100.0", "+Inf"), each with those of the smaller ones;
        * `gang_preemptions`: composed requests that gave their KV blocks back to begin again;
        * `rows_running`: requests in the batch, each row of a composed one counted;
        * `gangs_waiting`: composed requests that are not admitted.

        The first two are totals since the start.
        """
        return self._figures

    def load_gate(self, path: str) -> str:
        """Read a gate now and not in the middle of a step, where a file that is gone would end the
        engine. Returns why it cannot be used, or nothing if it can."""
        if self.switches is None:
            return (
                "a gate chooses adapters, and the engine runs without; start it with --enable-lora"
            )
        try:
            self.switches.gate(path)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            return str(error)
        return ""

    def routing_report(self, ticket: str, tokens: int | None = None) -> list[dict[str, Any]]:
        """What routers did in each answer to the request that carried `ticket`, once; empty if
        nobody knows of it. See `MixtureRouting.report` and `Switches.report`."""
        found = self.mixtures.report(ticket, tokens)
        return found or (self.switches.report(ticket, tokens) if self.switches is not None else [])

    def prefetch_adapters(
        self, adapters: Iterable[tuple[str, int, str]], model: str | None = None
    ) -> list[Unready]:
        """Begin to read adapters, given as name, id and path, in the background.

        Returns those that are not in memory yet, empty if all are: call it until then, and send the
        request. `adapter_loader.still_loading` reads the answers of all workers.
        """
        wanted = [LoRARequest(name, id, path) for name, id, path in adapters]
        loader = self._loaders.get(model)
        if loader is None:
            off = f"{_called(model)} runs without adapters; start it with --enable-lora"
            return [(request.lora_int_id, off) for request in wanted]
        return loader.prefetch(wanted)

    def try_adapter(self, adapter: tuple[str, int, str], model: str | None = None) -> str:
        """Put an adapter into a slot, as a step that needs it would. Returns why it does not fit,
        or nothing if it does: vLLM ends the engine where the same happens in a step."""
        if model not in self._loaders:
            return f"{_called(model)} runs without adapters"
        try:
            self._runners[model].lora_manager.add_adapter(LoRARequest(*adapter))
        except Exception as error:  # of any class: it comes from the layers of any model
            self.retire_adapter(adapter[1], model)
            return str(error) or type(error).__name__
        return ""

    def retire_adapter(self, id: int, model: str | None = None) -> None:
        """Take an adapter out of memory and its slot: now, or when the last request that uses it
        has left the model runner. For when no further request will come with it."""
        if (loader := self._loaders.get(model)) is not None:
            loader.retire(id)
            self._sweep()

    def resident_adapters(self, model: str | None = None) -> list[int]:
        """Ids of the adapters in memory, sorted."""
        loader = self._loaders.get(model)
        return loader.resident() if loader is not None else []

    def _sweep(self) -> None:
        for model, loader in self._loaders.items():
            loader.sweep(partial(self._adapters_in_use, model))

    def _adapters_in_use(self, model: str | None) -> set[int]:
        """Those of all requests that a model runner knows, preempted ones included."""
        requests = self._runners[model].requests.values()
        used = {r.lora_request.lora_int_id for r in requests if r.lora_request is not None}
        if model is None and self.switches is not None:
            used |= self.switches.adapters()
        return used

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


def _called(model: str | None) -> str:
    return "the base model" if model is None else f"the auxiliary model '{model}'"
