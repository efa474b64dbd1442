"""The command-line options of this server. All other options are vLLM's."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from composer.vllm.options import DEFAULT_GANG_PATIENCE_S, MODEL_RUNNERS
from server.auth.access_control import MetricsAccess
from server.option_values import (
    auxiliary_model,
    default_router,
    port_number,
    positive_integer,
    positive_number,
    seconds,
)

MIB = 2**20

DEFAULT_ROUTER: Mapping[str, object] = {"kind": "prompt", "top_k": 1, "none": True}
"""The router of `auto`: the one adapter whose examples are most similar to the prompt, or the base
if the prompt is like none of them."""

_SIMILARITY = 0.8
"""From this ratio on, an unknown option counts as a misspelt one of ours. No option of vLLM is so
similar to ours."""

USAGE = "python -m server --model MODEL [--adapters NAME=PATH,...] [options]"
_DESCRIPTION = """\
Serve a base model, its LoRA adapters and compositions of them through the OpenAI API. All
options of vLLM's server are accepted as well, e.g. --max-model-len 4096.
"""


def option_names() -> set[str]:
    """Return the names of this server's options."""
    return set(option_parser()._option_string_actions)


def refuse_misspelt(parser: argparse.ArgumentParser, vllm_flags: Sequence[str]) -> None:
    """Raise `ValueError` if an option that is left to vLLM looks like a misspelt one of ours."""
    names = [name for name in parser._option_string_actions if name.startswith("--")]
    for flag in vllm_flags:
        name = flag.partition("=")[0]
        similar = difflib.get_close_matches(name, names, 1, _SIMILARITY)
        if name.startswith("--") and name not in names and similar:
            raise ValueError(f"'{name}' is not an option; did you mean '{similar[0]}'?")


def option_parser() -> argparse.ArgumentParser:
    """Return the parser of this server's options."""
    # Abbreviations are off: `--max-m 4096` must reach vLLM or fail, not become --max-members.
    parser = argparse.ArgumentParser(
        prog="python -m server", usage=USAGE, description=_DESCRIPTION, allow_abbrev=False
    )
    add = parser.add_argument

    def add_list(name: str, metavar: str, what: str, kind: Callable[[str], object] = str) -> None:
        text = f"{what}; may be repeated"
        add(name, action="append", default=[], metavar=metavar, type=kind, help=text)

    add("--model", required=True, help="folder or Hugging Face name of the base model")
    add_list(
        "--adapters",
        "NAME=PATH,...",
        "LoRA adapters, with the names that requests use",
    )
    add_list(
        "--examples",
        "NAME=FILE,...",
        "files of example prompts, one per line, for an adapter, the base or an auxiliary "
        "model; routers compare them with the prompt",
    )
    add_list(
        "--router",
        "NAME=FILE,...",
        "gates that 'composer router train' has written",
    )
    add(
        "--default-router",
        type=default_router,
        default=DEFAULT_ROUTER,
        metavar="JSON",
        help="router of the model 'auto', with 'top_k', the largest number of experts that run, "
        "and 'none', whether the base answers prompts that are like no adapter's examples, or "
        f"below which familiarity, from 0 to 1 (default: {json.dumps(DEFAULT_ROUTER)})",
    )
    add(
        "--prompt-encoder",
        type=Path,
        metavar="FOLDER",
        help="sentence encoder by which routers compare prompts with examples, such as "
        "all-MiniLM-L6-v2: a BERT-like model that pools by the mean; without it they compare words",
    )
    add(
        "--adapter-store",
        type=Path,
        metavar="FOLDER",
        help="folder for published adapters, stored compositions and their history; several "
        "servers may share it; without it they are lost at exit",
    )
    add(
        "--adapter-root",
        type=Path,
        metavar="FOLDER",
        help="folder from which adapters may be published by path",
    )
    add_list(
        "--adapter-source",
        "URL",
        "prefix of URLs from which adapters may be published, e.g. hf://my-org/ or "
        "s3://bucket/loras/",
    )
    add(
        "--max-adapter-mib",
        type=positive_integer,
        default=2048,
        metavar="MIB",
        help="largest adapter to publish, in MiB (default: %(default)s)",
    )
    add(
        "--admin-key-file",
        type=Path,
        metavar="FILE",
        help="file with the administrators' key, required by the routes that change adapters; the "
        "variable COMPOSER_ADMIN_KEY may hold it instead; without a key these routes do not exist",
    )
    add(
        "--keys",
        type=Path,
        metavar="FILE",
        help="TOML file of API keys with roles, models and limits (docs/operating.md), which is "
        "read again when it changes; every request but /live, /ready and /health then needs a key",
    )
    add(
        "--api-key",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY",
        help="keys that may use all models and store compositions; the variable VLLM_API_KEY may "
        "hold one instead, which other users of the machine cannot read",
    )
    add_list(
        "--expose",
        "ROUTE",
        "additional route of vLLM to serve, e.g. /version",
    )
    add(
        "--metrics",
        choices=[str(access) for access in MetricsAccess],
        default=str(MetricsAccess.KEY),
        help="who may read /metrics: 'key' requires a key for all models, if keys are required at "
        "all; 'open' allows everybody; 'off' removes the route (default: %(default)s)",
    )
    add(
        "--verify-adapters",
        action="store_true",
        help="compare every adapter with PEFT before serving it (loads the model a second time)",
    )
    add_list(
        "--auxiliary",
        "NAME=PATH[,ADAPTER=PATH,...]",
        "additional model with the same tokenizer, and its adapters, which compositions call "
        "NAME and NAME:ADAPTER",
        auxiliary_model,
    )
    add(
        "--auxiliary-memory",
        type=positive_integer,
        metavar="MIB",
        help="KV cache of each auxiliary model, in MiB (default: 256 if the base model has less "
        "than a billion parameters, otherwise 4096)",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=port_number, default=8000, help="port to listen on (default: %(default)s)")
    add(
        "--max-compositions-per-key",
        type=positive_integer,
        default=100,
        metavar="N",
        help="stored compositions per key (default: %(default)s)",
    )
    add(
        "--max-members",
        type=positive_integer,
        default=8,
        metavar="N",
        help="members per composition (default: %(default)s)",
    )
    add(
        "--max-weight",
        type=positive_number,
        default=100.0,
        metavar="WEIGHT",
        help="largest magnitude of a weight (default: %(default)s)",
    )
    add(
        "--model-runner",
        choices=MODEL_RUNNERS,
        default="auto",
        help="vLLM's model runner; auto is V2 on CUDA, V1 elsewhere (default: auto)",
    )
    add(
        "--gang-patience",
        type=seconds,
        default=DEFAULT_GANG_PATIENCE_S,
        metavar="SECONDS",
        help="how long other requests may overtake a composed request that waits for room for all "
        "its rows, before room is reserved for it (default: %(default)s)",
    )
    add(
        "--max-body-mib",
        type=positive_integer,
        default=1,
        metavar="MIB",
        help="largest body of an inference request, in MiB (default: %(default)s); for adapters "
        "see --max-adapter-mib",
    )
    add(
        "--drain-seconds",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long requests in flight may take to finish after SIGTERM or SIGINT, while new "
        "requests get a 503; a second signal ends them at once (default: %(default)g)",
    )
    add(
        "--request-log",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="log each composed request in one line: id, key, formula, rows, tokens, seconds, "
        "outcome (default: on)",
    )
    add(
        "--verbose",
        action="store_true",
        help="print all log records of vLLM, torch and transformers; by default their warnings "
        "are hidden while the server starts",
    )
    return parser
