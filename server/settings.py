"""The configuration of one server, built once from the command line and passed down."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters import SourceRules
from composer.errors import CompositionError
from composer.fields import MAX_EXPERTS
from composer.plan import Limits
from composer.request import parse_composition
from composer.vllm.options import DEFAULT_GANG_PATIENCE_S
from server.auth.access_control import MetricsAccess
from server.auth.keys import KeyFile, KeyRing
from server.startup.auxiliary_models import AuxiliaryGiven

MIB = 2**20
_SHORTEST_KEY = 16

DEFAULT_ROUTER: Mapping[str, object] = {"kind": "prompt", "top_k": 1}
"""Of the model `auto`: the one adapter whose examples look most like the request."""

MIXTURE_OPTIONS = ("top_k", "explain")
"""What of a mixture may stand beside the fields of the default router."""

_DESCRIPTION = """\
Serve a base model, its LoRA adapters and every linear combination of them through the OpenAI API.
Every option of vLLM's server is accepted as well and passed through, e.g. --max-model-len 4096.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line decided. `vllm_flags` are passed to vLLM as they were written."""

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
    """Routes of vLLM that are served beside those that always are."""

    metrics: MetricsAccess
    verify_adapters: bool
    examples: tuple[tuple[str, Path], ...]
    """Files with the examples of what has this name, for routers that read the prompt."""

    routers: tuple[tuple[str, Path], ...]
    """Files of gates, by name."""

    default_router: Mapping[str, object]
    """Of the model `auto`, with the `top_k` of its mixture."""

    auxiliaries: tuple[AuxiliaryGiven, ...]
    auxiliary_memory_bytes: int | None
    """For the KV cache of each auxiliary model; None: as the base model's size suggests."""

    drain_s: float
    """How long requests in flight may take to finish after SIGTERM."""

    gang_patience_s: float
    """How long requests that fit may pass a composed one that does not."""

    log_requests: bool
    """Whether each composed request gets a line in the log."""

    verbose: bool
    """Whether everything that vLLM, torch and transformers have to say is printed."""

    vllm_flags: tuple[str, ...]

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Settings:
        """Read our own options; whatever is left is vLLM's.

        Raises:
            SystemExit: an option of ours has no valid value; usage and reason are on stderr.
        """
        parser = _parser()
        ours, vllm_flags = parser.parse_known_args(arguments)
        return cls(
            model=ours.model,
            adapters=_pairs(parser, "--adapters", ours.adapters),
            host=ours.host,
            port=ours.port,
            limits=Limits(max_members=ours.max_members, max_weight=ours.max_weight),
            max_body_bytes=ours.max_body_mib * MIB,
            adapter_store=ours.adapter_store,
            max_compositions_per_key=ours.max_compositions_per_key,
            sources=SourceRules(
                root=ours.adapter_root,
                remote=tuple(ours.adapter_source),
                max_bytes=ours.max_adapter_mib * MIB,
            ),
            keys=_key_ring(parser, ours),
            exposed=frozenset(ours.expose),
            metrics=ours.metrics,
            verify_adapters=ours.verify_adapters,
            examples=_pairs(parser, "--examples", ours.examples),
            routers=_pairs(parser, "--router", ours.router),
            default_router=ours.default_router,
            auxiliaries=tuple(ours.auxiliary),
            auxiliary_memory_bytes=ours.auxiliary_memory and ours.auxiliary_memory * MIB,
            drain_s=ours.drain_seconds,
            gang_patience_s=ours.gang_patience,
            log_requests=ours.request_log,
            verbose=ours.verbose,
            vllm_flags=tuple(vllm_flags),
        )


def option_names() -> set[str]:
    """The options that are ours, not vLLM's."""
    return {name for action in _parser()._actions for name in action.option_strings}


def _parser() -> argparse.ArgumentParser:
    # Abbreviations are off: `--max-m 4096` must reach vLLM or fail, not become --max-members.
    parser = argparse.ArgumentParser(
        prog="python -m server", description=_DESCRIPTION, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", required=True, help="folder or Hugging Face name of the base model")
    add(
        "--adapters",
        action="append",
        default=[],
        metavar="NAME=PATH,...",
        help="LoRA adapters and the names that compositions use; may be given several times",
    )
    add(
        "--examples",
        action="append",
        default=[],
        metavar="NAME=FILE,...",
        help="prompts that an adapter (or the base, or an auxiliary model) is to answer, one a "
        "line, by which routers choose; may be given several times",
    )
    add(
        "--router",
        action="append",
        default=[],
        metavar="NAME=FILE,...",
        help="gates that 'composer router train' has trained; may be given several times",
    )
    add(
        "--default-router",
        type=_router,
        default=DEFAULT_ROUTER,
        metavar="JSON",
        help="what the model 'auto' is: a router, and 'top_k' experts that run at most (default: "
        + json.dumps(DEFAULT_ROUTER)
        + ")",
    )
    add(
        "--adapter-store",
        type=Path,
        metavar="FOLDER",
        help="where adapters, stored compositions and their history are kept, also for several "
        "servers at once; without it they are forgotten at exit",
    )
    add(
        "--adapter-root",
        type=Path,
        metavar="FOLDER",
        help="folder below which administrators may publish adapters from",
    )
    add(
        "--adapter-source",
        action="append",
        default=[],
        metavar="URL",
        help="beginning of URLs that administrators may publish adapters from, e.g. hf://my-org/ "
        "or s3://bucket/loras/; may be given several times",
    )
    add(
        "--max-adapter-mib",
        type=_positive,
        default=2048,
        help="largest adapter to publish, in MiB (default: %(default)s)",
    )
    add(
        "--admin-key-file",
        type=Path,
        metavar="FILE",
        help="file with the key of the routes that change adapters; or COMPOSER_ADMIN_KEY in the "
        "environment. Without a key these routes do not exist",
    )
    add(
        "--keys",
        type=Path,
        metavar="FILE",
        help="TOML file of API keys with roles, models and limits (docs/operating.md); it is read "
        "again when it changes. With it, every request but /live, /ready and /health needs a key",
    )
    add(
        "--api-key",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY",
        help="keys that may use all models and store compositions; or VLLM_API_KEY in the "
        "environment, which other users of the machine cannot read",
    )
    add(
        "--expose",
        action="append",
        default=[],
        metavar="ROUTE",
        help="a route of vLLM to serve that is left out otherwise, e.g. /version; may be given "
        "several times",
    )
    add(
        "--metrics",
        type=MetricsAccess,
        choices=list(MetricsAccess),
        default=MetricsAccess.KEY,
        help="who may read /metrics: with 'key' a key for all models, where keys are required; "
        "'open' everybody; 'off' nobody (default: %(default)s)",
    )
    add(
        "--verify-adapters",
        action="store_true",
        help="compare every adapter with PEFT before it is served (loads the model once more)",
    )
    add(
        "--auxiliary",
        action="append",
        default=[],
        type=_auxiliary,
        metavar="NAME=PATH[,ADAPTER=PATH,...]",
        help="a further model with the same tokenizer, and its adapters, which compositions call "
        "NAME and NAME:ADAPTER; may be given several times",
    )
    add(
        "--auxiliary-memory",
        type=_positive,
        metavar="MIB",
        help="KV cache of each auxiliary model, in MiB (default: 256 beside a base model of less "
        "than a billion parameters, else 4096)",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    add(
        "--max-compositions-per-key",
        type=_positive,
        default=100,
        metavar="N",
        help="stored compositions that a key may have (default: %(default)s)",
    )
    add("--max-members", type=_positive, default=8, help="per composition (default: %(default)s)")
    add(
        "--max-weight",
        type=_weight,
        default=100.0,
        help="largest magnitude of a weight (default: %(default)s)",
    )
    add(
        "--gang-patience",
        type=_seconds,
        default=DEFAULT_GANG_PATIENCE_S,
        metavar="SECONDS",
        help="how long requests that fit may pass a composed request that waits for room for all "
        "its rows; after that its room is kept for it (default: %(default)s)",
    )
    add(
        "--max-body-mib",
        type=_positive,
        default=1,
        help="largest body of an inference request in MiB (default: %(default)s); adapters have "
        "--max-adapter-mib",
    )
    add(
        "--drain-seconds",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long requests in flight may take to finish after SIGTERM or SIGINT, while new "
        "ones are refused with 503 (default: %(default)g); a second signal ends them at once",
    )
    add(
        "--request-log",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="one line for each composed request: id, key, formula, rows, tokens, seconds, outcome "
        "(default: on)",
    )
    add(
        "--verbose",
        action="store_true",
        help="print everything that vLLM, torch and transformers have to say; otherwise their "
        "warnings are left out while the server starts",
    )
    return parser


def _pairs(
    parser: argparse.ArgumentParser, option: str, given: Sequence[str]
) -> tuple[tuple[str, Path], ...]:
    """What an option of the form `name=path,name=path` says."""
    pairs = []
    for pair in [pair for group in given for pair in group.split(",") if pair]:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            parser.error(f"{option}: '{pair}' is not of the form name=path")
        pairs.append((name, Path(path)))
    return tuple(pairs)


def _key_ring(parser: argparse.ArgumentParser, ours: argparse.Namespace) -> KeyRing:
    """All keys that the command line and the environment name."""
    api_keys = ours.api_key or [os.environ.get("VLLM_API_KEY", "")]
    try:
        file = KeyFile(ours.keys) if ours.keys is not None else None
    except ValueError as error:
        parser.error(str(error))
    return KeyRing(filter(None, api_keys), _read_key(parser, ours.admin_key_file), file)


def _read_key(parser: argparse.ArgumentParser, file: Path | None) -> str | None:
    """The administrators' key, from the file or the environment."""
    key = os.environ.get("COMPOSER_ADMIN_KEY") or None
    where = "COMPOSER_ADMIN_KEY"
    if file is not None:
        where = f"--admin-key-file {file}"
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"{where}: {error}")
    if key is not None and len(key) < _SHORTEST_KEY:
        parser.error(
            f"{where}: the key has {len(key)} characters; use at least {_SHORTEST_KEY}, e.g. what "
            "`openssl rand -hex 32` prints"
        )
    return key


def _auxiliary(text: str) -> AuxiliaryGiven:
    try:
        return AuxiliaryGiven.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _router(text: str) -> Mapping[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"it is no JSON: {error}") from None
    router = dict(value) if isinstance(value, dict) else {"kind": value}
    options = {name: router.pop(name) for name in MIXTURE_OPTIONS if name in router}
    top_k = options.get("top_k")
    # As it will be read, with as many experts as it asks for.
    count = min(top_k, MAX_EXPERTS) if isinstance(top_k, int) else 2
    experts = [f"expert{n}" for n in range(max(count, 1))]
    composition = {"recipe": "mixture", "experts": experts, "router": router, **options}
    try:
        limits = Limits(max_members=MAX_EXPERTS)
        parse_composition(composition, known=experts, limits=limits, param="the mixture")
    except CompositionError as error:
        raise argparse.ArgumentTypeError(error.message) from None
    return {**router, **options}


def _weight(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value
