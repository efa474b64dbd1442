"""Read `adapter_config.json` and refuse what vLLM would not compute as PEFT does.

Compared with PEFT 0.21 (`LoraConfig`) and vLLM 0.32 (`vllm/lora/peft_helper.py`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from adapters.files import CONFIG
from adapters.inspection.float_scan import LARGEST
from adapters.inspection.problems import listing

Fail = Callable[[str, str], NoReturn]
"""Raises the error for a problem, with its remedy."""

CONFIG_LIMIT = 4 << 20
"""Largest size of a configuration in bytes; the largest models need a few hundred kilobytes."""

RETRAIN = "Train a plain LoRA adapter, or merge this one into a model of its own"
CONVERT = (
    "Convert it on your machine: `composer adapters inspect FOLDER --base MODEL_FOLDER --convert "
    "NEW_FOLDER` does so where plain LoRA equals it, and says what else to do"
)
COPY_AGAIN = "Copy or save the adapter again"

MAX_ENTRIES = 4096
"""Largest length of a list or object in a configuration: modules, layers, patterns."""

CONVERTIBLE: Mapping[str, str] = {
    "use_dora": "it is a DoRA adapter",
    "use_qalora": "it is a QALoRA adapter",
    "use_bdlora": "it is a block-diagonal LoRA adapter",
    "lora_bias": "its LoRA layers have a bias",
    "trainable_token_indices": "it retrains single token embeddings",
}
"""Fields of PEFT's LoraConfig that change the result in ways that vLLM does not implement, and that
`adapters.weight_space.convert` may turn into plain LoRA."""

UNSUPPORTED: Mapping[str, str] = {
    "alora_invocation_tokens": "it is an activated LoRA adapter (aLoRA)",
    "layer_replication": "it replicates layers of the base model",
    "arrow_config": "it routes between other adapters (Arrow)",
    "kasa_config": "it truncates the weights of the base model (KaSA)",
    "monteclora_config": "it samples its weights (MonteCLoRA)",
}
"""Fields of the same kind that no plain LoRA equals."""

FOLLOWED = frozenset({
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern",
    "modules_to_save", "bias", "init_lora_weights", "fan_in_fan_out",
    "base_model_name_or_path", "revision",
})  # fmt: skip
"""Fields that this module reads."""

TRAINING_ONLY = frozenset({
    # which modules were trained: the tensors themselves say so
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "target_parameters", "ensure_weight_tying",
    # how they were trained
    "lora_dropout", "velora_config", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "qalora_group_size", "megatron_config", "megatron_core", "runtime_config",
    # notes
    "task_type", "inference_mode", "auto_mapping", "peft_version", "lora_runtime_config",
})  # fmt: skip
"""Fields without effect on a trained adapter."""

PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
"""Initializations that set only the adapter's weights; others also change the base model's."""

_MAX_RANK = 2**16
"""Larger than any matrix that adapters change; vLLM serves ranks of a few hundred."""
_MAX_SHOWN = 80
_MAX_PATTERNS = 4096
_MAX_REPEATS = 2
# Patterns are regular expressions, matched once per module here and in the engine. A repeated group
# can take exponential time, and many repetitions a high power of the name's length.
_REPEAT = re.compile(r"(?<!\\)[*+{]")
_REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+{]")


@dataclass(frozen=True, slots=True)
class Scaling:
    """The rank and the scale of each module: alpha / r, or alpha / sqrt(r) if rank-stabilized.

    rsLoRA: Kalajdzievski 2023, arXiv:2312.03732. Patterns: `get_pattern_key` of PEFT,
    `PEFTHelper.get_rank_and_scaling` of vLLM.
    """

    rank: int
    alpha: float
    rank_stabilized: bool
    rank_patterns: tuple[tuple[re.Pattern[str], int], ...]
    alpha_patterns: tuple[tuple[re.Pattern[str], float], ...]

    @property
    def max_rank(self) -> int:
        """Return what vLLM compares with `max_lora_rank`; patterns count even without a match."""
        return max(self.rank, *(r for _, r in self.rank_patterns), 0)

    def of(self, module: str) -> tuple[int, float]:
        """Return rank and scale of a module, named without `base_model.model.`."""
        # PEFT stores the two matrices of fused experts under these names, and matches others.
        if module.endswith(".experts.base_layer"):
            module = module.removesuffix(".base_layer") + ".gate_up_proj"
        elif module.endswith(".experts"):
            module += ".down_proj"
        rank = next((r for p, r in self.rank_patterns if p.match(module)), self.rank)
        alpha = next((a for p, a in self.alpha_patterns if p.match(module)), self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def parse(data: bytes, fail: Fail) -> dict[str, Any]:
    """Return the JSON object in the file."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        fail(f"{CONFIG} is not JSON: {error}", COPY_AGAIN)
    if not isinstance(config, dict):
        fail(f"{CONFIG} is not a JSON object", COPY_AGAIN)
    return config


def check_method(config: Mapping[str, Any], fail: Fail) -> None:
    """Refuse every method that vLLM would run as if it were plain LoRA."""
    kind = config.get("peft_type")
    for name, value in config.items():
        if isinstance(value, list | dict) and len(value) > MAX_ENTRIES:
            fail(
                f"its {name[:60]!r} has {len(value)} entries",
                f"Give at most {MAX_ENTRIES}; it was not written by PEFT",
            )
    if kind != "LORA":
        fail(f"its peft_type is {kind!r}, not 'LORA'", CONVERT)
    if modules := config.get("modules_to_save"):
        fail(f"it replaces whole modules (modules_to_save: {modules})", CONVERT)
    if (bias := config.get("bias", "none")) != "none":
        fail(f"it trains biases (bias: {bias!r})", CONVERT)
    for problems, remedy in ((UNSUPPORTED, RETRAIN), (CONVERTIBLE, CONVERT)):
        for name, problem in problems.items():
            if config.get(name):
                fail(f"{problem} ({name})", remedy)
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        fail(
            f"its initialization {init!r} changed the weights of the base model",
            CONVERT,
        )
    if "target_modules" not in config:
        fail(f"{CONFIG} has no target_modules, which vLLM requires", COPY_AGAIN)


def read_scaling(config: Mapping[str, Any], fail: Fail) -> Scaling:
    """Return the rules for rank and scale, with every number and pattern checked."""
    rank: Any = config.get("r")
    if not _is_rank(rank):
        fail(
            f"its rank r is {_shown(rank)}",
            f"Give a trained adapter with a rank of 1 to {_MAX_RANK}",
        )
    alpha: Any = config.get("lora_alpha")
    if not _is_alpha(alpha):
        fail(
            f"its lora_alpha is {_shown(alpha)}",
            f"Give a finite number other than 0, of at most {LARGEST:g}",
        )
    stabilized = config.get("use_rslora", False)
    if not isinstance(stabilized, bool):
        fail(f"its use_rslora is {stabilized!r}", "Give true or false")
    return Scaling(
        rank,
        float(alpha),
        stabilized,
        _read_patterns(config, "rank_pattern", _is_rank, fail),
        _read_patterns(config, "alpha_pattern", _is_alpha, fail),
    )


def read_base_model(config: Mapping[str, Any]) -> str | None:
    """Return `name` or `name@revision` of the model that the adapter was trained on."""
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        return None
    return f"{name}@{revision}" if isinstance(revision, str) and revision else name


def warnings(config: Mapping[str, Any]) -> list[str]:
    """Return a warning for fields that are set and unknown to this version."""
    known = FOLLOWED | TRAINING_ONLY | UNSUPPORTED.keys() | CONVERTIBLE.keys()
    unknown = sorted(name for name, value in config.items() if value and name not in known)
    if not unknown:
        return []
    return [f"{CONFIG} has unknown fields, which have no effect: {listing(unknown)}"]


def _read_patterns(
    config: Mapping[str, Any], field: str, valid: Callable[[Any], bool], fail: Fail
) -> tuple[tuple[re.Pattern[str], Any], ...]:
    patterns = config.get(field) or {}
    if not isinstance(patterns, dict):
        fail(f"its {field} is {patterns!r}", "Give an object of module names and numbers")
    if len(patterns) > _MAX_PATTERNS:
        fail(f"its {field} has {len(patterns)} entries", f"Give at most {_MAX_PATTERNS}")
    if wrong := [f"{k}: {_shown(v)}" for k, v in patterns.items() if not valid(v)]:
        fail(f"its {field} has invalid numbers: {listing(wrong)}", "Give valid numbers")
    compiled = []
    for key, value in patterns.items():
        if len(_REPEAT.findall(key)) > _MAX_REPEATS or _REPEATED_GROUP.search(key):
            fail(
                f"the pattern {key!r} of its {field} repeats more than {_MAX_REPEATS} times or "
                "repeats a group, which can take forever to match",
                "Write out the names of the modules",
            )
        try:
            compiled.append((re.compile(rf"(.*\.)?({key})$"), value))
        except (re.error, OverflowError, RecursionError) as error:
            fail(f"the pattern {key!r} of its {field} is invalid: {error}", "Correct it")
    return tuple(compiled)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_RANK


def _is_alpha(value: Any) -> bool:
    """Return whether the value is finite, within the limit of a scale, and not 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < abs(value) <= LARGEST  # false for NaN


def _shown(value: Any) -> str:
    """Return a value for a message, shortened: a number may have thousands of digits."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
