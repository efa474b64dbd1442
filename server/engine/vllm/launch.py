"""Start of the engine and of the HTTP server, and their end."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import signal
import socket
import typing
from argparse import Namespace
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import torch
import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.config import LOGGING_CONFIG
from vllm import envs
from vllm.config.lora import MaxLoRARanks
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.launcher import NoSignalServer, setup_server
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.entrypoints.launchers.utils.ssl import SSLCertRefresher
from vllm.logger import configure_logging_from_args
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.metrics.stats import LoRARequestStates

from composer.capacity import ModelCapacity
from composer.errors import EngineFault
from composer.vllm.auxiliary.config import model_config
from composer.vllm.auxiliary.spec import from_additional_config
from composer.vllm.lifeline import release_engine
from composer.vllm.options import engine_options
from composer.vllm.progress import stage
from server.engine.http_protocol import BoundedHttpProtocol
from server.engine.listen_address import cannot_listen
from server.engine.port import Capacity
from server.engine.processor import OMP_THREADS, Processor, threads
from server.engine.vllm.lora_gauge import bound_lora_gauge
from server.engine.vllm.vllm_cli import (
    cli_env_setup,
    make_arg_parser,
    validate_parsed_serve_args,
)
from server.engine.vllm.vllm_engine import VllmEngine
from server.engine.vllm_args import (
    Dtype,
    Needs,
    Platform,
    auxiliary_options,
    cpu_dtype,
    read_flags,
    set_engine_options,
)
from server.lifecycle import FAREWELL_S, LAST_RESORT_S, Lifecycle
from server.logs import show
from server.server_options import MIB, USAGE
from server.settings import Settings

logger = logging.getLogger(__name__)

_REQUEST_LOGGERS = ("vllm.entrypoints.serve.utils.request_logger", "vllm.v1.engine.async_llm")
"""Loggers that write the lines of `--enable-log-requests`."""

_WATCH_S = 0.2
"""Interval between two checks whether the engine is alive."""

_ENGINE_STOP_S = 10.0
"""How long the engine may take to stop by itself."""


def run(
    settings: Settings,
    needs: Needs,
    lifecycle: Lifecycle,
    assemble: Callable[[VllmEngine], Awaitable[ASGIApp]],
    on_ready: Callable[[str], None],
) -> None:
    """Load the engine and serve until the lifecycle is over.

    Args:
        settings: of the server.
        needs: what models and adapters require of the engine.
        lifecycle: decides when to stop, and knows the exit status.
        assemble: loads the adapters, adds our layers to vLLM's application and returns what to
            serve.
        on_ready: called with the server's URL once connections are accepted.
    """
    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(prog="python -m server", usage=USAGE))
    processor = Processor.read() if current_platform.is_cpu() else None
    compiler = shutil.which(os.environ.get("CXX", "g++"))  # where torch looks for it
    platform = Platform(processor, typing.get_args(MaxLoRARanks), compiler is not None)
    args = read_flags(parser, settings, needs, platform)
    if processor is not None:
        _use_processor(processor, args, cpu_dtype(processor, needs))
    auxiliaries = auxiliary_options(settings, needs, platform)
    for auxiliary in auxiliaries:
        mib = auxiliary.kv_memory_bytes // MIB
        logger.info("auxiliary model %s: KV cache of %d MiB", auxiliary.name, mib)
    set_engine_options(args, parser, engine_options(auxiliaries, settings.gang_patience_s))
    if platform.is_cpu and args.enforce_eager:
        # Otherwise the sampler's helpers are compiled during the first requests, for half a minute.
        # The engine's processes read this variable as they start.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    validate_parsed_serve_args(args)
    configure_logging_from_args(args)
    if args.enable_log_requests:
        for name in _REQUEST_LOGGERS:
            show(name, logging.INFO)
    uvloop.run(_serve(args, lifecycle, assemble, on_ready))


def _use_processor(processor: Processor, args: Namespace, dtype: Dtype) -> None:
    """Arrange the threads of vLLM's workers, and log what computes."""
    workers = args.tensor_parallel_size * args.pipeline_parallel_size
    chosen = threads(processor, workers * (args.data_parallel_size_local or 1), os.environ)
    os.environ.update(chosen.variables)  # the workers read them as they start
    if (count := chosen.variables.get(OMP_THREADS)) is not None:
        torch.set_num_threads(int(count))  # if the engine is in this process, torch has read them
    reason = dtype.reason if args.dtype == (dtype.name or "auto") else "--dtype"
    name = "the model's dtype" if args.dtype == "auto" else args.dtype
    logger.info("CPU: %s (%s), %s", name, reason, chosen.text)


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
        raise cannot_listen(where, error) from error
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
            # vLLM's front end would report the engine's names of adapters, without companions.
            client.output_processor.lora_states = LoRARequestStates(log_stats=False)
            bound_lora_gauge(client)
            names = tuple(args.served_model_name)
            engine = VllmEngine(app, client, names, await _capacities(client))
            server = _http_server(await assemble(engine), args)
            app.state.server = server  # vLLM's error handlers stop it when the engine has died
            loop = asyncio.get_running_loop()
            for signum in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(signum, lifecycle.signalled, signum)
            sock.listen()  # from now on, connections queue until the server accepts them
            on_ready(address)
            await _run_server(server, sock, client, lifecycle, args.enable_ssl_refresh)


async def _capacities(client: Any) -> dict[str | None, Capacity]:
    """Return the capacity of each model, from the scheduler; None is the base model."""
    config = client.vllm_config
    scheduler, lora = config.scheduler_config, config.lora_config
    rows = scheduler.max_num_active_seqs or scheduler.max_num_seqs
    replies = await client.collective_rpc("kv_capacities")
    pools = {name: (blocks, tuple(tokens)) for name, blocks, tokens in replies[0]}
    capacities: dict[str | None, Capacity] = {
        None: Capacity(
            ModelCapacity(
                config.model_config.max_model_len, lora.max_loras if lora else 0, *pools[None]
            ),
            rows=rows,
            max_rank=lora.max_lora_rank if lora else 0,
            adapters_in_memory=lora.max_cpu_loras if lora else 0,
        )
    }
    for auxiliary in from_additional_config(config.additional_config):
        context = model_config(config, auxiliary).max_model_len
        capacities[auxiliary.name] = Capacity(
            ModelCapacity(context, auxiliary.max_loras, *pools[auxiliary.name]),
            rows=rows,
            max_rank=auxiliary.max_lora_rank if auxiliary.max_loras else 0,
            adapters_in_memory=auxiliary.max_cpu_loras or auxiliary.max_loras,
        )
    return capacities


def _http_server(app: ASGIApp, args: Namespace) -> NoSignalServer:
    """Return a uvicorn server with vLLM's options."""
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
        # At this level uvicorn would log its start and end as well as requests.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return NoSignalServer(config)


async def _run_server(
    server: NoSignalServer,
    sock: socket.socket,
    client: Any,
    lifecycle: Lifecycle,
    refresh_certificates: bool,
) -> None:
    """Serve until the lifecycle is over."""
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
        if client.errored:  # vLLM's error handlers have noticed it, and stop the server
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
    """Stop the engine; let it clean up unless the exit is hurried."""
    hurried = lifecycle.exit_status != 0
    if not hurried:
        release_engine()
    await asyncio.to_thread(client.shutdown, timeout=0 if hurried else _ENGINE_STOP_S)
