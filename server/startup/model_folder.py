"""Whether a folder holds a model that vLLM can serve, as far as its files show without loading it.

vLLM would find the same faults: half a minute later, in a traceback of another process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

_CONFIG = "config.json"
_ADAPTER = "adapter_config.json"
_INDEX = "model.safetensors.index.json"
_POINTER = b"version https://git-lfs.github.com/"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json", "spiece*")
_OTHER_TASK = re.compile(
    r"\w*([Bb]ert|BERT|Roberta|MPNet|Electra|CLIP|Encoder)\w*Model"
    r"|\w+For(SequenceClassification|TokenClassification|MaskedLM|QuestionAnswering|CTC"
    r"|ImageClassification|AudioClassification|MultipleChoice)"
)
_AGAIN = "Download or copy it again"

GGUF_REMEDY = (
    "Give the model that it was made from: the page of the file, and its metadata "
    "`general.base_model.0.repo_url`, usually name it (pip install gguf; gguf-dump FILE.gguf)."
)


@dataclass(frozen=True, slots=True)
class ModelFlags:
    """The options of vLLM that say where a model's files are, or replace some of them."""

    revision: str | None
    download_dir: str | None
    other_config: bool
    other_weights: bool
    other_tokenizer: bool
    chat_template: bool

    @classmethod
    def read(cls, flags: Sequence[str]) -> ModelFlags:
        """Read the options as vLLM's parser does. A file of options may replace anything."""
        names = {_name(flag) for flag in flags}

        def given(*options: str) -> bool:
            return not names.isdisjoint((*options, "--config"))

        return cls(
            revision=_value(flags, "--revision"),
            download_dir=_value(flags, "--download-dir"),
            other_config=given("--hf-config-path", "--config-format", "--hf-overrides"),
            other_weights=given("--load-format", "--model-loader-extra-config"),
            other_tokenizer=given("--tokenizer", "--tokenizer-mode", "--skip-tokenizer-init"),
            chat_template=given("--chat-template"),
        )


def check_model(folder: Path, vllm_flags: Sequence[str]) -> None:
    """Check that the folder holds a whole model that generates text.

    Raises:
        ValueError: it does not; the message names the file and says what to do.
    """
    flags = ModelFlags.read(vllm_flags)
    if not flags.other_config:
        config = _read_config(folder)
        _check_task(folder, config)
    if not flags.other_weights:
        _check_weights(folder)
    if not flags.other_tokenizer and not _any(folder, _TOKENIZERS):
        raise ValueError(
            f"'{folder}' holds no tokenizer (tokenizer.json). Copy the files tokenizer* of the "
            "model there, or name another folder with --tokenizer."
        )


def lacks_chat_template(folder: Path, vllm_flags: Sequence[str]) -> bool:
    """Return whether neither the folder nor the command line has a chat template."""
    flags = ModelFlags.read(vllm_flags)
    if flags.chat_template or flags.other_tokenizer or _any(folder, ("chat_template*",)):
        return False
    try:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return True
    return not (isinstance(config, dict) and config.get("chat_template"))


def has_weights(folder: Path) -> bool:
    """Return whether the folder holds weights: every shard of its index if it has one."""
    if (folder / _INDEX).is_file():
        return not _missing_shards(folder)
    return _any(folder, _WEIGHTS)


def _read_config(folder: Path) -> Mapping[str, Any]:
    file = folder / _CONFIG
    if not file.is_file():
        if (folder / "params.json").is_file():  # Mistral's format
            return {}
        raise ValueError(_no_config(folder))
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"'{file}' is not JSON: {error}. {_AGAIN}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"'{file}' is not a JSON object. {_AGAIN}.")
    return config


def _no_config(folder: Path) -> str:
    """Return what a folder without a model holds instead."""
    if (folder / _ADAPTER).is_file():
        return f"'{folder}' holds an adapter, not a model. {_adapter_remedy(folder)}"
    if files := sorted(folder.glob("*.gguf")):
        return (
            f"'{folder}' holds no {_CONFIG}, but the GGUF file {files[0].name}, which vLLM does "
            f"not load. {GGUF_REMEDY}"
        )
    names = sorted(path.name for path in folder.iterdir())[:8]
    return (
        f"'{folder}' holds no {_CONFIG}, so no model; it holds {', '.join(names) or 'nothing'}. "
        "Give a folder that save_pretrained wrote, or a name of the Hugging Face hub."
    )


def _adapter_remedy(folder: Path) -> str:
    try:
        base = json.loads((folder / _ADAPTER).read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    model = base if isinstance(base, str) and base else "MODEL"
    return f"Give --model {model} --adapters {folder.resolve().name}={folder}."


def _check_task(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse models that do not generate text from text; vLLM knows which of the others it runs."""
    classes = config.get("architectures") or []
    other = [name for name in classes if isinstance(name, str) and _OTHER_TASK.fullmatch(name)]
    what = None
    if config.get("is_encoder_decoder"):
        what = "an encoder-decoder model"
    elif other and len(other) == len(classes):
        what = "a model that does not generate text"
    if what:
        raise ValueError(
            f"'{folder}' holds {what} ({', '.join(classes) or config.get('model_type')}). "
            "Give a decoder-only language model, such as one with the architecture "
            "LlamaForCausalLM."
        )


def _check_weights(folder: Path) -> None:
    """Check that all weights are there, and that the headers of safetensors files fit them."""
    if missing := _missing_shards(folder):
        raise ValueError(
            f"'{folder}' lacks {', '.join(missing[:5])}, {len(missing)} of the files that "
            f"{_INDEX} names. {_AGAIN}."
        )
    if not _any(folder, _WEIGHTS):
        raise ValueError(
            f"'{folder}' holds {_CONFIG}, but no weights ({', '.join(_WEIGHTS)}). {_AGAIN}."
        )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                is_pointer = stream.read(len(_POINTER)) == _POINTER
            if not is_pointer:
                with safe_open(file, framework="np"):
                    continue
        except (OSError, SafetensorError) as error:
            raise ValueError(f"'{file}' cannot be read: {error}. {_AGAIN}.") from None
        raise ValueError(
            f"'{file}' is a pointer of Git LFS, not the weights. Run `git lfs pull` in its folder."
        )


def _missing_shards(folder: Path) -> list[str]:
    """Return the files of the index that the folder lacks; empty without an index."""
    file = folder / _INDEX
    if not file.is_file():
        return []
    try:
        names = {str(name) for name in json.loads(file.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"'{file}' has no readable weight_map. {_AGAIN}.") from None
    return sorted(name for name in names if not (folder / name).is_file())


def _any(folder: Path, patterns: Sequence[str]) -> bool:
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def _name(flag: str) -> str:
    """Return the option that vLLM reads: `--a-b` for `--a_b`, `--a-b=value` and `--a-b.key`."""
    return flag.partition("=")[0].partition(".")[0].replace("_", "-")


def _value(flags: Sequence[str], name: str) -> str | None:
    """Return the value of a flag written as `--name value` or `--name=value`; None without it."""
    for flag, following in pairwise((*flags, "")):
        if _name(flag) == name:
            _, equals, value = flag.partition("=")
            return value if equals else following
    return None
