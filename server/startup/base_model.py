"""Find the files of the base model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def find_folder(model: str, vllm_flags: Sequence[str]) -> Path:
    """Return the folder of the model; download it from the Hugging Face hub if needed.

    vLLM would download the same files, but adapters are compared with the model before it loads.

    Raises:
        ValueError: the model is neither a folder nor on the hub.
    """
    if Path(model).is_dir():
        return Path(model)
    revision = _value(vllm_flags, "--revision")
    folder = _value(vllm_flags, "--download-dir")
    try:
        try:
            snapshot = snapshot_download(
                model, revision=revision, cache_dir=folder, local_files_only=True
            )
        except LocalEntryNotFoundError:
            snapshot = snapshot_download(
                model, revision=revision, cache_dir=folder, allow_patterns=list(_FILES)
            )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"there is no model '{model}': no such folder, and not at the Hugging Face hub "
            f"({type(error).__name__}). Give --model a folder or the name of a model."
        ) from error
    return Path(snapshot)


def _value(flags: Sequence[str], name: str) -> str | None:
    """Return the value of a flag written as `--name value` or `--name=value`; None without it."""
    for flag, following in pairwise((*flags, "")):
        if flag == name:
            return following
        if flag.startswith(f"{name}="):
            return flag.removeprefix(f"{name}=")
    return None
