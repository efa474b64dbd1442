"""The configuration of one server, built once from the command line and passed down."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters import SourceRules
from composer.plan import Limits
from server.auth.access_control import MetricsAccess
from server.auth.keys import KeyFile, KeyRing
from server.option_values import read_admin_key, read_pairs
from server.server_options import MIB, option_parser, refuse_misspelt
from server.startup.auxiliary_models import AuxiliaryOption


@dataclass(frozen=True, slots=True)
class Settings:
    """The values of all options.

    adapters: name and folder of each adapter.
    exposed: routes of vLLM that are served besides those that always are.
    examples: name of a model or adapter, and file with its examples, for routers.
    routers: name and file of each gate.
    prompt_encoder: folder of the sentence encoder that routers compare prompts by; None for words.
    default_router: router of the model `auto`, with `top_k` and `explain` of its mixture.
    auxiliary_memory_bytes: KV cache of each auxiliary model; None leaves it to the base's size.
    drain_s: how long requests in flight may take to finish after SIGTERM.
    model_runner: vLLM's model runner: auto, v1 or v2.
    gang_patience_s: how long other requests may overtake a composed one that waits for room.
    log_requests: whether to log each composed request.
    verbose: whether to print everything that vLLM, torch and transformers log.
    vllm_flags: options for vLLM, as they were written.
    """

    model: str
    adapters: tuple[tuple[str, Path], ...]
    host: str
    port: int
    limits: Limits
    max_body_bytes: int
    adapter_store: Path | None
    max_compositions_per_key: int
    sources: SourceRules
    keys: KeyRing
    exposed: frozenset[str]
    metrics: MetricsAccess
    verify_adapters: bool
    examples: tuple[tuple[str, Path], ...]
    routers: tuple[tuple[str, Path], ...]
    prompt_encoder: Path | None
    default_router: Mapping[str, object]
    auxiliaries: tuple[AuxiliaryOption, ...]
    auxiliary_memory_bytes: int | None
    drain_s: float
    model_runner: str
    gang_patience_s: float
    log_requests: bool
    verbose: bool
    vllm_flags: tuple[str, ...]

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Settings:
        """Parse the options of this server; leave all others to vLLM.

        Raises:
            SystemExit: an option has no valid value or is misspelt; the reason is on stderr.
        """
        parser = option_parser()
        options, vllm_flags = parser.parse_known_args(arguments)
        try:
            refuse_misspelt(parser, vllm_flags)
            adapters = read_pairs("--adapters", options.adapters)
            examples = read_pairs("--examples", options.examples)
            routers = read_pairs("--router", options.router)
            admin_key = read_admin_key(options.admin_key_file)
            file = KeyFile(options.keys) if options.keys is not None else None
        except ValueError as error:
            parser.error(str(error))
        api_keys = options.api_key or [os.environ.get("VLLM_API_KEY", "")]
        return cls(
            model=options.model,
            adapters=adapters,
            host=options.host,
            port=options.port,
            limits=Limits(max_members=options.max_members, max_weight=options.max_weight),
            max_body_bytes=options.max_body_mib * MIB,
            adapter_store=options.adapter_store,
            max_compositions_per_key=options.max_compositions_per_key,
            sources=SourceRules(
                root=options.adapter_root,
                remote=tuple(options.adapter_source),
                max_bytes=options.max_adapter_mib * MIB,
            ),
            keys=KeyRing(filter(None, api_keys), admin_key, file),
            exposed=frozenset(options.expose),
            metrics=MetricsAccess(options.metrics),
            verify_adapters=options.verify_adapters,
            examples=examples,
            routers=routers,
            prompt_encoder=options.prompt_encoder,
            default_router=options.default_router,
            auxiliaries=tuple(options.auxiliary),
            auxiliary_memory_bytes=options.auxiliary_memory and options.auxiliary_memory * MIB,
            drain_s=options.drain_seconds,
            model_runner=options.model_runner,
            gang_patience_s=options.gang_patience,
            log_requests=options.request_log,
            verbose=options.verbose,
            vllm_flags=tuple(vllm_flags),
        )
