"""Load an adapter of any kind with PEFT, in float32, and refuse what changes more than weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Embedding, Linear, LoraLayer
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from adapters.errors import AdapterError, MergeError
from adapters.files import CONFIG, WEIGHTS
from adapters.generation import alias_of
from adapters.inspection.lora_config import PLAIN_INITS, UNSUPPORTED, parse
from adapters.inspection.problems import listing
from adapters.weight_space.factors import Factors

PREFIX = "base_model.model."
_NAME = "default"
MERGE_REMEDY = (
    "Merge it into a model of its own with PEFT's merge_and_unload, save that with its tokenizer, "
    "and serve it as the base model"
)
_NO_CHANGE_OF_WEIGHTS = {**UNSUPPORTED, "target_parameters": "it changes fused experts"}

_SUBTRACTED = ("pissa", "olora", "corda", "lora_ga")
"""Initializations that took the product of the adapter's first factors out of the base's weights;
LoftQ also quantized them."""

_RECOMPUTED = frozenset({"pissa", "olora"})
"""Initializations of the base that PEFT repeats, with the same result, whenever it loads one."""

_LENGTH = 32


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """An adapter on its base model.

    initial: by module, what the initialization took out of the base's weight: the adapter's change
        is the product of its own factors less that of these.
    before: tensors of the base that loading the adapter may have replaced.
    """

    model: Any
    kind: str
    base_model: str | None
    initial: Mapping[str, Factors]
    before: Mapping[str, Tensor]


def load_base(folder: Path) -> Any:
    """Load the model with transformers: float32, 4 bytes per weight."""
    disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    except (ValueError, KeyError, OSError) as error:
        raise MergeError(
            f"transformers cannot load '{folder}' as a language model: "
            f"{str(error).splitlines()[0]}. Give the model that the adapter was trained on.",
            param="base",
        ) from error


def load(folder: Path, base: Path, initial: Path | None) -> PeftAdapter:
    """Load the adapter in `folder` on the model in `base`.

    Raises:
        AdapterError: the adapter is incomplete, does not fit, or is not a change of weights.
    """
    fields = _fields(folder)
    kind = fields.get("peft_type")
    init = str(fields.get("init_lora_weights", True)).lower()
    changes_base = kind == "LORA" and init not in PLAIN_INITS | {"true", "false"}
    if changes_base and not init.startswith(_SUBTRACTED):
        _fail(
            folder,
            f"its initialization {init!r} changed the base model in a way that is not converted",
            "Train a plain LoRA adapter",
        )
    if changes_base and initial is None and init not in _RECOMPUTED:
        _fail(
            folder,
            f"its initialization {init!r} changed the base model by what only the untrained "
            "adapter tells",
            "Give the adapter as it was before training with --initial",
        )
    config = _config(folder, fields)
    if kind == "LORA" and (initial is not None or init not in _RECOMPUTED):
        config.init_lora_weights = True  # all factors are read from the file
    config.inference_mode = True
    named, config.base_model_name_or_path = config.base_model_name_or_path, None
    # What PEFT says of tied embeddings concerns its own merges.
    warnings.filterwarnings("ignore", ".*tie_word_embeddings")
    model: Any = get_peft_model(load_base(base), config)
    start = _factors_of(model) if changes_base and initial is None else {}
    before = _replaceable(model, folder)
    _read_weights(model, folder, _NAME)
    if initial is not None:
        start = _take_out(model, initial)
    if changes_base:
        _check_plain(model, folder, init)
    return PeftAdapter(model.eval(), str(kind), named, start, before)


def plain_factors(layer: Any) -> Factors | None:
    """Return the factors of a layer of plain LoRA, which need no decomposition; else None.

    Of an embedding [V, H]: a [r, V] and b [H, r].
    """
    if type(layer) not in (Linear, Embedding) or _NAME in layer.lora_variant:
        return None  # AdaLoRA's layers are subclasses
    if layer.lora_bias.get(_NAME) or layer.fan_in_fan_out:
        return None
    if isinstance(layer, Embedding):
        a, b = layer.lora_embedding_A[_NAME], layer.lora_embedding_B[_NAME]
    else:
        a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
    return Factors(a.detach().clone(), b.detach() * layer.scaling[_NAME])


def logits(model: Any) -> Tensor:
    """Return the logits [T, V] f64 of one sequence of T tokens, the same for equal models."""
    size = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(size, (1, _LENGTH), generator=generator)
    with torch.no_grad():
        result: Tensor = model(input_ids=ids).logits[0].double()
    return result


def load_converted(folder: Path, base: Any) -> Any:
    """Load a plain adapter on a model that is in memory."""
    return PeftModel.from_pretrained(base, str(folder)).eval()


def _fields(folder: Path) -> dict[str, Any]:
    """Return the configuration as it is in the file; check that the weights are there."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            _fail(folder, f"{name} is missing", "Give a folder written by PEFT's save_pretrained")
    return parse((folder / CONFIG).read_bytes(), lambda *words: _fail(folder, *words))


def _config(folder: Path, fields: Mapping[str, Any]) -> Any:
    """Return PEFT's configuration of an adapter that is a change of weights."""
    for name, problem in _NO_CHANGE_OF_WEIGHTS.items():
        if fields.get(name):
            _fail(
                folder, f"{problem} ({name}), which is not converted", "Train a plain LoRA adapter"
            )
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError, ImportError) as error:
        _fail(folder, f"PEFT cannot read its {CONFIG}: {error}", "Give the one that PEFT wrote")
    if config.is_prompt_learning:
        _fail(
            folder,
            f"it is of the kind {fields['peft_type']}, which adds to the prompt and changes no "
            "weights, so no LoRA equals it",
            "Train a LoRA adapter",
        )
    return config


def _replaceable(model: Any, folder: Path) -> dict[str, Tensor]:
    """Return copies of the base's tensors that are in the adapter's file, and of all biases."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        stored = set(file.keys())
    return {
        name: tensor.detach().clone()
        for name, tensor in model.named_parameters(remove_duplicate=False)
        if (name in stored or name.endswith(".bias")) and ".lora_" not in name
    }


def _read_weights(model: Any, folder: Path, name: str) -> None:
    try:
        result = model.load_adapter(str(folder), adapter_name=name)
    except (RuntimeError, ValueError) as error:
        first = next((line for line in str(error).splitlines() if "size mismatch" in line), None)
        if first is None:
            raise
        _fail(
            folder,
            f"it does not fit the base model, or has tokens that it lacks: {first.strip(' .')}",
            f"Give --base the model that it was trained on. If it added tokens: {MERGE_REMEDY}",
        )
    missing = _not_shared(model, result.missing_keys)
    if missing or result.unexpected_keys:
        _fail(
            folder,
            f"{WEIGHTS} and {CONFIG} disagree: missing {listing(missing) or 'nothing'}; "
            f"unknown {listing(sorted(result.unexpected_keys)) or 'nothing'}",
            "Save it again with PEFT",
        )


def _not_shared(model: Any, missing: Sequence[str]) -> list[str]:
    """Return those of the missing tensors that the file has under no other name either."""
    tensors = model.state_dict()
    read = {tensor.data_ptr() for name, tensor in tensors.items() if name not in set(missing)}
    return sorted(name for name in missing if tensors[name].data_ptr() not in read)


def _check_plain(model: Any, folder: Path, init: str) -> None:
    """Refuse an initialization of the base together with DoRA and the like."""
    for _, module in model.named_modules():
        if isinstance(module, LoraLayer) and plain_factors(module) is None:
            _fail(
                folder,
                f"it combines the initialization {init!r} with another method than plain LoRA, "
                "which is not converted",
                MERGE_REMEDY,
            )


def _factors_of(model: Any) -> dict[str, Factors]:
    layers = ((n.removeprefix(PREFIX), plain_factors(m)) for n, m in model.named_modules())
    return {name: factors for name, factors in layers if factors is not None}


def _take_out(model: Any, folder: Path) -> dict[str, Factors]:
    """Take the untrained adapter in `folder` out of the base's weights; return its factors."""
    _fields(folder)
    layers = {
        name.removeprefix(PREFIX): module
        for name, module in model.named_modules()
        if plain_factors(module) is not None
    }
    factors: dict[str, Factors] = {}
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        if set(file.keys()) != {f"{PREFIX}{n}.lora_{x}.weight" for n in layers for x in "AB"}:
            _fail(
                folder,
                "it does not hold the factors of the same modules as the trained adapter",
                "Give the folder that save_pretrained wrote before training",
            )
        for name, layer in layers.items():
            a, b = (file.get_tensor(f"{PREFIX}{name}.lora_{x}.weight").float() for x in "AB")
            factors[name] = Factors(a, b * layer.scaling[_NAME])
            layer.get_base_layer().weight.data -= factors[name].b @ a
    return factors


def _fail(folder: Path, problem: str, remedy: str) -> NoReturn:
    raise AdapterError(alias_of(folder.resolve()), folder, problem, remedy)
