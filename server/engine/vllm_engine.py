"""The only file of the server that touches vLLM: its command line, its OpenAI application, its
renderer.

vLLM's server package moves with every release. What is relied on is imported by name at the top,
so that a new release fails here, at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import signal
import socket
import time
import typing
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.config import LOGGING_CONFIG
from vllm import envs
from vllm.config.lora import MaxLoRARanks
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import NoSignalServer, setup_server
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.entrypoints.launchers.utils.ssl import SSLCertRefresher
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.logger import configure_logging_from_args
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.metrics.stats import LoRARequestStates

from adapters import AdapterError, Generation
from composer.capacity import ModelCapacity
from composer.engine_plan import EnginePlan, LoadedAdapter, Row
from composer.errors import EngineFault
from composer.vllm.auxiliary.config import model_config
from composer.vllm.auxiliary.spec import from_additional_config
from composer.vllm.execute.adapter_loader import still_loading
from composer.vllm.execute.adapter_probes import PREFIX
from composer.vllm.lifeline import release_engine
from composer.vllm.options import engine_options
from composer.vllm.progress import stage
from server.engine.http_protocol import BoundedHttpProtocol
from server.engine.port import (
    Body,
    Capacity,
    Kind,
    Probe,
    RenderedRequest,
    RoutingTrace,
    Tokens,
)
from server.engine.vllm_args import (
    Needs,
    Platform,
    auxiliary_options,
    read_flags,
    set_engine_options,
)
from server.engine.vllm_requests import PromptRenderer
from server.lifecycle import FAREWELL_S, LAST_RESORT_S, Lifecycle
from server.logs import show
from server.settings import MIB, Settings

_PROBE_TEXT = "The quick brown fox jumps over the lazy dog, 0 1 2 3 4 5 6 7 8 9."
_PROBE_TOKENS = 20
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.001, 0.05
logger = logging.getLogger(__name__)

_REQUEST_LOGGERS = ("vllm.entrypoints.serve.utils.request_logger", "vllm.v1.engine.async_llm")
"""What writes the lines of `--enable-log-requests`."""
_WATCH_S = 0.2
"""How soon the death of the engine is noticed where no request meets it."""
_ENGINE_STOP_S = 10.0
"""How long the engine may take to end by itself."""


class VllmEngine:
    """vLLM's application with its engine, behind the interface `server.engine.port.Engine`."""

    def __init__(
        self,
        app: FastAPI,
        client: Any,
        base_names: tuple[str, ...],
        capacities: Mapping[str | None, Capacity],
    ) -> None:
        self.app = app
        self.base_names = base_names
        self.started = int(time.time())
        self.capacities = capacities
        self._client = client
        self._models = app.state.openai_serving_models
        self._prompts = PromptRenderer(app, self._validate)
        self._probes = 0

    @property
    def alive(self) -> bool:
        return not self._client.errored

    async def load(self, generation: Generation) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            replies = await self._call("prefetch_adapters", [_entry(generation)], generation.model)
            try:
                if not still_loading(replies):
                    break
            except ValueError as error:
                raise _refused(generation, str(error)) from error
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        if generation.model is None:
            self._models.lora_requests[generation.engine_name] = _lora(generation)

    async def try_slot(self, generation: Generation) -> None:
        for problem in await self._call("try_adapter", _entry(generation), generation.model):
            if problem:
                raise _refused(generation, problem)

    async def retire(self, generation: Generation) -> None:
        self._models.lora_requests.pop(generation.engine_name, None)
        await self._call("retire_adapter", generation.number, generation.model)

    async def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = (await self._call("composer_stats"))[0]
        return figures

    async def _call(self, method: str, *args: object) -> list[Any]:
        """A method of `ComposerWorker`, on every worker."""
        answers: list[Any] = await self._client.collective_rpc(method, args=args)
        return answers

    async def shift(self, generation: Generation) -> float | None:
        # The difference of adapter and model, composed in one step of the engine: where it is the
        # same for every token, all tokens are equally likely.
        adapter = LoadedAdapter(*_entry(generation))
        model = generation.model
        plan = EnginePlan.led((Row(1.0, adapter, None, model), Row(-1.0, None, None, model)))
        if self.capacities[None].rows < len(plan.rows):
            return None
        prompt = await self.tokenize(Kind.COMPLETION, {"prompt": _PROBE_TEXT})
        logprobs = await self._next_token(generation, prompt, 1, plan)
        return max(logprobs.values()) + math.log(self._client.model_config.get_vocab_size())

    async def probe(self, generation: Generation) -> Probe:
        config = self._client.model_config
        row = Row(1.0, LoadedAdapter(*_entry(generation)), None, generation.model)
        prompt = await self.tokenize(Kind.COMPLETION, {"prompt": _PROBE_TEXT})
        count = min(_PROBE_TOKENS, config.max_logprobs)
        logprobs = await self._next_token(generation, prompt, count, EnginePlan.led((row,)))
        return Probe(prompt, logprobs, str(config.dtype).removeprefix("torch."))

    async def _next_token(
        self, generation: Generation, prompt: Tokens, count: int, plan: EnginePlan
    ) -> dict[int, float]:
        """Log-probabilities of the `count` likeliest next tokens, by token id."""
        extra = plan.to_extra_args()
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=count,
            extra_args=extra,
            skip_reading_prefix_cache=True,  # what an earlier probe left says nothing
        )
        leads = plan.rows[0].adapter is not None
        self._probes += 1
        answers = self._client.generate(
            {"prompt_token_ids": list(prompt)},
            params,
            f"{PREFIX}{self._probes}-{generation.engine_name}",
            lora_request=_lora(generation) if leads else None,
        )
        answer = [output async for output in answers][-1].outputs[0]
        if not answer.logprobs:
            raise EngineFault(
                f"the engine did not answer the probe of adapter '{generation.alias}' "
                f"({answer.finish_reason}). Try again."
            )
        return {token: entry.logprob for token, entry in answer.logprobs[0].items()}

    def base_cards(self) -> list[Body]:
        cards = self._models.registry.base_model_paths
        return [
            {
                "id": card.name,
                "object": "model",
                "created": self.started,
                "owned_by": "vllm",
                "root": card.name,
                "parent": None,
                "max_model_len": self.capacities[None].model.context_tokens,
            }
            for card in cards
        ]

    def check_tokens(self, tokens: Tokens) -> None:
        self._prompts.check_tokens(tokens)

    async def load_gate(self, path: Path) -> None:
        for problem in await self._call("load_gate", str(path)):
            if problem:
                raise ValueError(problem)

    async def routing_traces(
        self, report_id: str, answer_tokens: int | None = None
    ) -> tuple[RoutingTrace, ...]:
        # Of several workers, only those that sample have reports.
        replies = await self._call("routing_report", report_id, answer_tokens)
        reports: list[dict[str, Any]] = next(filter(None, replies), [])
        reports = sorted(reports, key=lambda report: _place(report.get("name", "")))
        return tuple(RoutingTrace(tuple(r["weights"]), _by_token(r["tokens"])) for r in reports)

    def detokenize(self, tokens: Tokens) -> str:
        return self._prompts.detokenize(tokens)

    def _validate(self, params: SamplingParams) -> None:
        self._client.input_processor._validate_params(params, ("generate",))

    async def refusal(self, error: Exception) -> str | None:
        return await self._prompts.told(error)

    async def render(self, kind: Kind, body: Body) -> RenderedRequest:
        return await self._prompts.render(kind, body)

    async def tokenize(self, kind: Kind, body: Body, chat_template: str | None = None) -> Tokens:
        return await self._prompts.tokenize(kind, body, chat_template)


_NAME = re.compile(r"(?:(\d+)_)?.*?(?:-(\d+))?(?:-[0-9a-f]{8})?")
"""vLLM's name of a request in the engine: place among the `n` of its prompt, the id that it has
outside, place of its prompt, and something random."""


def _place(name: str) -> tuple[int, int]:
    """Where an answer stands among all answers to a request: by prompt, then by number."""
    match = _NAME.fullmatch(name)
    number, prompt = match.groups() if match else (None, None)
    return int(prompt or 0), int(number or 0)


def _by_token(told: list[Any]) -> tuple[tuple[float, ...] | int, ...]:
    return tuple(tuple(one) if isinstance(one, list) else int(one) for one in told)


def _entry(generation: Generation) -> tuple[str, int, str]:
    return generation.engine_name, generation.number, str(generation.path)


def _lora(generation: Generation) -> LoRARequest:
    return LoRARequest(*_entry(generation))


def _refused(generation: Generation, problem: str) -> AdapterError:
    return AdapterError(
        generation.alias,
        generation.path,
        f"vLLM does not load it: {problem}",
        "Check that it was trained on this model, and vLLM's limits for LoRA",
    )


async def _capacities(client: Any) -> dict[str | None, Capacity]:
    """What the base model, None, and the auxiliary models hold: the scheduler's figures."""
    config = client.vllm_config
    scheduler, lora = config.scheduler_config, config.lora_config
    rows = scheduler.max_num_active_seqs or scheduler.max_num_seqs
    answers = await client.collective_rpc("kv_capacities")
    pools = {name: (blocks, tuple(tokens)) for name, blocks, tokens in answers[0]}
    found: dict[str | None, Capacity] = {
        None: Capacity(
            ModelCapacity(
                config.model_config.max_model_len, lora.max_loras if lora else 0, *pools[None]
            ),
            rows=rows,
            max_rank=lora.max_lora_rank if lora else 0,
            adapters_in_memory=lora.max_cpu_loras if lora else 0,
        )
    }
    for one in from_additional_config(config.additional_config):
        context = model_config(config, one).max_model_len
        found[one.name] = Capacity(
            ModelCapacity(context, one.max_loras, *pools[one.name]),
            rows=rows,
            max_rank=one.max_lora_rank if one.max_loras else 0,
            adapters_in_memory=one.max_cpu_loras or one.max_loras,
        )
    return found


def run(
    settings: Settings,
    needs: Needs,
    lifecycle: Lifecycle,
    assemble: Callable[[VllmEngine], Awaitable[ASGIApp]],
    on_ready: Callable[[str], None],
) -> None:
    """Load the engine and serve until told to stop.

    Args:
        settings: the configuration.
        needs: what model and adapters ask of the engine.
        lifecycle: decides when to stop, and knows the exit status then.
        assemble: loads the adapters, puts our part in front of vLLM's application and returns what
            to serve.
        on_ready: called with the server's URL when connections are accepted.
    """
    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(prog="python -m server"))
    platform = Platform(current_platform.is_cpu(), typing.get_args(MaxLoRARanks))
    args = read_flags(parser, settings, needs, platform)
    auxiliaries = auxiliary_options(settings, needs, platform)
    for one in auxiliaries:
        mib = one.kv_memory_bytes // MIB
        logger.info("auxiliary model %s: KV cache of %d MiB", one.name, mib)
    set_engine_options(args, parser, engine_options(auxiliaries, settings.gang_patience_s))
    if platform.is_cpu and args.enforce_eager:
        # Else the sampler's helpers are compiled in the middle of the first requests, for half a
        # minute. The engine's processes read this as they start.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    validate_parsed_serve_args(args)
    configure_logging_from_args(args)
    if args.enable_log_requests:
        for name in _REQUEST_LOGGERS:
            show(name, logging.INFO)
    uvloop.run(_serve(args, lifecycle, assemble, on_ready))


async def _serve(
    args: Namespace,
    lifecycle: Lifecycle,
    assemble: Callable[[VllmEngine], Awaitable[ASGIApp]],
    on_ready: Callable[[str], None],
) -> None:
    try:
        address, sock = setup_server(args, reuse_port=False)
    except OSError as error:
        where = args.uds or f"{args.host}:{args.port}"
        raise ValueError(
            f"cannot listen on {where}: {error.strerror}. Try another port."
        ) from error
    with sock:
        async with AsyncExitStack() as stack:
            try:
                with stage("loading the engine"):
                    client = await stack.enter_async_context(build_async_engine_client(args))
            except RuntimeError as error:
                raise EngineFault(
                    f"the engine did not start; its own log is above. {error}"
                ) from error
            stack.push_async_callback(_stop_engine, client, lifecycle)
            tasks = await client.get_supported_tasks()
            app = build_app(args, tasks, client.model_config)
            await init_app_state(client, app.state, args, tasks)
            # vLLM's front end would add the engine's names of adapters, and none of companions.
            client.output_processor.lora_states = LoRARequestStates(log_stats=False)
            names = tuple(args.served_model_name)
            engine = VllmEngine(app, client, names, await _capacities(client))
            server = _http_server(await assemble(engine), args)
            app.state.server = server  # vLLM's error handlers end it when the engine has died
            loop = asyncio.get_running_loop()
            for signum in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(signum, lifecycle.signalled, signum)
            sock.listen()  # from here on connections queue until the server takes them
            on_ready(address)
            await _run_server(server, sock, client, lifecycle, args.enable_ssl_refresh)


def _http_server(app: ASGIApp, args: Namespace) -> NoSignalServer:
    """uvicorn, with vLLM's options."""
    config = uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        host=args.host,
        port=args.port,
        log_level=args.uvicorn_log_level,
        access_log=not args.disable_uvicorn_access_log,
        log_config=get_uvicorn_log_config(args) or LOGGING_CONFIG,
        timeout_keep_alive=envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(FAREWELL_S),
        ssl_keyfile=args.ssl_keyfile,
        ssl_certfile=args.ssl_certfile,
        ssl_ca_certs=args.ssl_ca_certs,
        ssl_cert_reqs=args.ssl_cert_reqs,
        ssl_ciphers=args.ssl_ciphers,
        h11_max_incomplete_event_size=args.h11_max_incomplete_event_size,
    )
    config.load()
    if args.uvicorn_log_level == "info" and args.log_config_file is None:
        # Requests are worth a line at this level, the steps of uvicorn's start and end are not.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return NoSignalServer(config)


async def _run_server(
    server: NoSignalServer,
    sock: socket.socket,
    client: Any,
    lifecycle: Lifecycle,
    refresh_certificates: bool,
) -> None:
    """Serve until `lifecycle` says that it is over."""
    config = server.config
    refresher = None
    if refresh_certificates:
        refresher = SSLCertRefresher(
            config.ssl, config.ssl_keyfile, config.ssl_certfile, config.ssl_ca_certs
        )
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    watching = asyncio.create_task(_watch_engine(client, lifecycle))
    ending = asyncio.create_task(lifecycle.over())
    try:
        await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        if client.errored:  # noticed by vLLM's error handlers, which end the server
            lifecycle.engine_died()
        server.should_exit = True
        await serving
    finally:
        watching.cancel()
        ending.cancel()
        if refresher is not None:
            refresher.stop()
        lifecycle.exit_within(LAST_RESORT_S)


async def _watch_engine(client: Any, lifecycle: Lifecycle) -> None:
    while not client.errored:
        await asyncio.sleep(_WATCH_S)
    lifecycle.engine_died()


async def _stop_engine(client: Any, lifecycle: Lifecycle) -> None:
    """End the engine: let it tidy up, unless there is no time for it."""
    hurried = lifecycle.exit_status != 0
    if not hurried:
        release_engine()
    await asyncio.to_thread(client.shutdown, timeout=0 if hurried else _ENGINE_STOP_S)
