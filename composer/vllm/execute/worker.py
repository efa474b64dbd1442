"""The platform's worker, extended with composition, background loading and auxiliary models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from safetensors import SafetensorError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.utils.platform_utils import is_pin_memory_available
from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig

from composer.vllm.auxiliary.memory import memory_beside
from composer.vllm.auxiliary.spec import from_additional_config
from composer.vllm.compat import check_engine
from composer.vllm.execute.adapter_loader import AdapterLoader, Unready
from composer.vllm.execute.adapter_probes import Probes
from composer.vllm.execute.adapter_switch import Switches
from composer.vllm.execute.answer_ledger import Account, AnswerLedger, Report
from composer.vllm.execute.auxiliary_runners import AuxiliaryRunner, AuxiliaryRunners
from composer.vllm.execute.batch_layout import BatchLayout
from composer.vllm.execute.batch_view import BatchView
from composer.vllm.execute.mixture_state import MixtureRouting
from composer.vllm.execute.sampler import ComposingForward
from composer.vllm.execute.scoring.explanations import Explanations
from composer.vllm.execute.scoring.prompt_scoring import PromptScoring
from composer.vllm.lifeline import obey_front_end
from composer.vllm.schedule.counts import GangFigures, figures_of
from composer.vllm.schedule.kv_cache.kv_blocks import kv_capacity
from composer.vllm.step_failures import Failures, attach

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker

    from composer.vllm.workarounds.cpu_lora import use_adapterwise_kernels
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


logger = logging.getLogger(__name__)


class ComposerWorker(PlatformWorker):
    """vLLM's worker with composition before its sampler, adapters that load in the background, and
    auxiliary models.

    The public methods that vLLM does not have are called by name, through `collective_rpc`, which
    returns a list with the answer of every worker. Their `model` is the name of an auxiliary model,
    or None for the base model.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        obey_front_end()
        self._views: dict[str | None, BatchView] = {}
        self._loaders: dict[str | None, AdapterLoader] = {}  # of the models with LoRA
        self._figures = GangFigures().as_dict()
        self._probes = Probes()

    def init_device(self) -> None:
        # First of all: what does not go together is refused before anything is loaded.
        check_engine(self.vllm_config)
        auxiliaries = from_additional_config(self.vllm_config.additional_config)
        self.auxiliaries = AuxiliaryRunners(
            [AuxiliaryRunner(self.vllm_config, auxiliary) for auxiliary in auxiliaries]
        )
        super().init_device()

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        self._log_stage("reading the weights")
        super().load_model(*args, **kwargs)
        view_of = _view_class(v2=self.vllm_config.use_v2_model_runner)
        for runner in self.auxiliaries.runners:
            runner.load(type(self.model_runner), self.device, view_of)
        self._vocabulary = self.model_config.get_vocab_size()
        base = view_of(self.model_runner)
        self._views = {None: base} | {
            runner.auxiliary.name: runner.view for runner in self.auxiliaries.runners
        }
        self._ledger: AnswerLedger[Account] = AnswerLedger()
        self.mixtures = MixtureRouting(self.device, self._ledger)
        self.switches: Switches | None = None  # without LoRA nothing can be switched
        if self.model_runner.lora_config is not None:
            self.switches = Switches(self.model_runner, self._ledger)
        self.explanations = Explanations(list(self._views.values()), self.switches)
        self._forward = ComposingForward(
            list(self._views.values()),
            self.mixtures,
            self.switches,
            self.explanations,
            BatchLayout(self.device, is_pin_memory_available()),
        )
        base.install_sampler(self._forward)
        self.scoring = PromptScoring(
            list(self._views.values()),
            self.mixtures,
            self.switches,
            self.device,
            is_pin_memory_available(),
        )
        base.install_prompt_scoring(self.scoring)
        for model, view in self._views.items():
            if view.runner.lora_config is not None:
                if self.device.type == "cpu":
                    use_adapterwise_kernels(view.runner.lora_manager._adapter_manager)
                self._loaders[model] = AdapterLoader(view.runner.lora_manager)

    def determine_available_memory(self) -> int:
        self._log_stage("measuring the memory for the KV cache")
        return memory_beside(
            [runner.auxiliary for runner in self.auxiliaries.runners],
            super().determine_available_memory(),
            explicit=self.cache_config.kv_cache_memory_bytes is not None,
            device=self.device,
        )

    def initialize_from_config(self, kv_cache_config: KVCacheConfig) -> None:
        super().initialize_from_config(kv_cache_config)
        self._kv_cache_config = kv_cache_config
        for runner in self.auxiliaries.runners:
            runner.initialize_kv_cache(kv_cache_config)
        if self.switches is not None:
            self._views[None].install_adapter_choice(self.switches)

    def compile_or_warm_up_model(self) -> Any:
        self._log_stage("warming up")
        return super().compile_or_warm_up_model()

    def _log_stage(self, doing: str) -> None:
        """Log a stage of the start, once for all workers."""
        if self.rank == 0:
            logger.info("engine: %s", doing)

    def execute_model(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        self._figures = figures_of(scheduler_output) or self._figures
        finished, new = scheduler_output.finished_req_ids, scheduler_output.scheduled_new_reqs
        self._probes.begin_step(scheduler_output, self._views.values())
        self.scoring.forget(finished)
        self.explanations.forget(finished)
        self.mixtures.forget(finished)
        self.mixtures.add(new)
        if self.switches is not None:
            self.switches.forget(finished)
            self.switches.add(new)
        self.explanations.add(new)
        if self.auxiliaries:
            scheduler_output = self.auxiliaries.execute(scheduler_output, self._views[None])
        output = super().execute_model(scheduler_output, *args, **kwargs)
        self._sweep()
        # None: there is something to sample. The base model alone may have nothing.
        return None if self.auxiliaries.running else output

    def sample_tokens(self, grammar_output: GrammarOutput | None) -> Any:
        for view in self._views.values():
            view.begin_sampling()
        self.scoring.begin_step()
        if self.mixtures:
            for view in self._views.values():
                self.mixtures.read_prompts(view, self._vocabulary)
        self._probes.inspect(self._views.values())
        self._forward.constrained = grammar_output is not None
        output = super().sample_tokens(grammar_output)
        if self.auxiliaries.running:
            output = self.auxiliaries.finish(output)
        for view in self._views.values():
            view.end_sampling()
        failures = self._take_failures()
        return attach(output, failures) if failures else output

    def _take_failures(self) -> Failures:
        """Return what the step could not load."""
        failures = Failures()
        for model, loader in self._loaders.items():
            for id, problem in loader.take_failed().items():
                failures.adapters[model, id] = problem
        if self.switches is not None:
            failures.gates = self.switches.take_failed()
        return failures

    def kv_capacities(self) -> list[tuple[str | None, int, tuple[int, ...]]]:
        """Return what the KV cache of each model holds: its name (None: the base model), and the
        `kv_blocks` and `block_tokens` of a `composer.capacity.ModelCapacity`."""
        caches: dict[str | None, KVCacheConfig] = {None: self._kv_cache_config}
        for runner in self.auxiliaries.runners:
            caches[runner.auxiliary.name] = runner.kv_cache
        return [(name, *kv_capacity(cache, self.vllm_config)) for name, cache in caches.items()]

    def composer_stats(self) -> dict[str, Any]:
        """Return the scheduler's figures, as of the last step:

        * `gang_waits`: seconds from the arrival of a composed request to its first admission, as
          `count`, `sum_s` and cumulative `buckets`, by their upper bound as text ("0.01" to
          "100.0", "+Inf");
        * `gang_preemptions`: composed requests that gave their KV blocks back to begin again;
        * `rows_running`: requests in the batch, each row of a composed one counted;
        * `gangs_waiting`: composed requests that are not admitted.

        The first two are totals since the start.
        """
        return self._figures

    def load_gate(self, path: str) -> str:
        """Read a gate before a step needs it, where a missing file would end the engine. Return why
        it cannot be used, or an empty text."""
        if self.switches is None:
            return (
                "a gate chooses adapters, and the engine runs without; start it with --enable-lora"
            )
        try:
            self.switches.gate(path)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            return str(error)
        return ""

    def routing_report(self, report_id: str, tokens: int | None = None) -> list[Report]:
        """Return, once, what routers did in each answer to the request that carried `report_id`;
        empty if it is unknown. See `AnswerLedger.take`."""
        return self._ledger.take(report_id, tokens)

    def score_reports(self, report_ids: Sequence[str]) -> dict[str, list[Report]]:
        """Return, once, what was computed of the prompts with these `Scoring.report_id`: see
        `ScoreAccount.report`. Lists are empty for unknown ones."""
        return {report_id: self.scoring.ledger.take(report_id) for report_id in report_ids}

    def explanation_report(
        self, report_id: str, seen: Mapping[str, int], last: bool
    ) -> list[Report]:
        """Return what is known of each answer to the request that carried this
        `Explaining.report_id`: see `Explanations.report`. Empty if it is unknown."""
        return self.explanations.report(report_id, seen, last)

    def drop_explanation(self, report_id: str) -> None:
        """Forget an explanation that nobody will ask for."""
        self.explanations.drop(report_id)

    def prefetch_adapters(
        self, adapters: Iterable[tuple[str, int, str]], model: str | None = None
    ) -> list[Unready]:
        """Start to load adapters (name, id, path) in the background.

        Return those that are not in memory yet: call it until there are none, then send the
        request. `adapter_loader.still_loading` reads the answers of all workers.
        """
        wanted = [LoRARequest(name, id, path) for name, id, path in adapters]
        loader = self._loaders.get(model)
        if loader is None:
            problem = f"{_called(model)} runs without adapters; start it with --enable-lora"
            return [(request.lora_int_id, problem) for request in wanted]
        return loader.prefetch(wanted)

    def try_adapter(self, adapter: tuple[str, int, str], model: str | None = None) -> str:
        """Put an adapter into a slot, as a step that needs it would. Return why it does not fit, or
        an empty text: vLLM ends the engine where the same happens in a step."""
        if model not in self._loaders:
            return f"{_called(model)} runs without adapters"
        try:
            self._views[model].runner.lora_manager.add_adapter(LoRARequest(*adapter))
        except Exception as error:  # of any class: it comes from the layers of any model
            self.retire_adapter(adapter[1], model)
            return str(error) or type(error).__name__
        return ""

    def retire_adapter(self, id: int, model: str | None = None) -> None:
        """Remove an adapter from memory and its slot: now, or when the last request that uses it
        has left the model runner. Call it when no further request will use the adapter."""
        if (loader := self._loaders.get(model)) is not None:
            loader.retire(id)
            self._sweep()

    def resident_adapters(self, model: str | None = None) -> list[int]:
        """Return the ids of the adapters in memory, sorted."""
        loader = self._loaders.get(model)
        return loader.resident() if loader is not None else []

    def _sweep(self) -> None:
        for model, loader in self._loaders.items():
            loader.sweep(partial(self._adapters_in_use, model))

    def _adapters_in_use(self, model: str | None) -> set[int]:
        """Return the adapters of all requests that a runner knows, preempted ones included."""
        used = self._views[model].adapters_in_use()
        if model is None and self.switches is not None:
            used |= self.switches.adapters_in_use()
        return used


def _view_class(*, v2: bool) -> Callable[[Any], BatchView]:
    """Return the view of a model runner; the other one is not imported."""
    if v2:
        from composer.vllm.execute.v2.slot_view import V2View

        return V2View
    from composer.vllm.execute.v1.view import V1View

    return V1View


def _called(model: str | None) -> str:
    return "the base model" if model is None else f"the auxiliary model '{model}'"
