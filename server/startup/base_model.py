"""Find the files of the base model: a folder, or a name at the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from server.startup.model_folder import GGUF_REMEDY, ModelFlags, has_weights

_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
_ELSEWHERE = (
    "Run `hf download {} --local-dir FOLDER` where there is a network, copy the folder here, and "
    "give it as --model"
)


def find_folder(model: str, vllm_flags: Sequence[str]) -> Path:
    """Return the folder of the model; download it from the Hugging Face hub if needed.

    vLLM would download the same files, but adapters are compared with the model before it loads.

    Raises:
        ValueError: the model is neither a folder nor on the hub; the message says what to do.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if path.suffix == ".gguf" and not path.exists():
        raise ValueError(
            f"--model {model}: there is no such file, nor would vLLM load a GGUF file. "
            f"{GGUF_REMEDY}"
        )
    if path.suffix == ".gguf":
        raise ValueError(f"--model {model} is a GGUF file, which vLLM does not load. {GGUF_REMEDY}")
    if path.is_file():
        raise ValueError(f"--model {model} is a file. Give the folder that holds config.json.")
    flags = ModelFlags.read(vllm_flags)
    try:
        return _download(model, flags)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        problem, remedy = _explain(model, flags, error)
        raise ValueError(f"there is no folder '{model}', and {problem}. {remedy}") from error


def _download(model: str, flags: ModelFlags) -> Path:
    """Return the snapshot in the hub's cache, after completing it.

    Without a network the hub's client returns a snapshot that lacks files, as other programs and
    downloads that were broken off leave it.

    Raises:
        ValueError: the snapshot holds no weights.
    """
    download = partial(snapshot_download, model, revision=flags.revision)
    try:
        snapshot = Path(download(cache_dir=flags.download_dir, local_files_only=True))
        if has_weights(snapshot):
            return snapshot
    except LocalEntryNotFoundError:
        pass
    for patterns in (_FILES, (*_FILES, "*.bin")):
        snapshot = Path(download(cache_dir=flags.download_dir, allow_patterns=list(patterns)))
        if flags.other_weights or has_weights(snapshot):
            return snapshot
    raise ValueError(
        f"of --model {model}, the cache of the Hugging Face hub ({snapshot}) lacks weights: "
        f"{constants.ENDPOINT} cannot be reached, or has them in another format, such as GGUF. "
        f"{_ELSEWHERE.format(model)}, or the model that a GGUF file was made from."
    )


def _explain(model: str, flags: ModelFlags, error: Exception) -> tuple[str, str]:
    """Return why the hub does not give the model, and what to do."""
    hub = constants.ENDPOINT
    match error:
        case HFValidationError():
            return (
                "a model of the Hugging Face hub has a name like Qwen/Qwen3-0.6B",
                "Correct the path or the name",
            )
        case GatedRepoError():
            return (
                f"{hub} gives this model only to those who accepted its licence",
                "Accept it on the model's page, and set HF_TOKEN",
            )
        case RevisionNotFoundError():
            return f"{hub} has no revision '{flags.revision}' of it", "Correct --revision"
        case RepositoryNotFoundError():
            return (
                f"{hub} has no such model, or a private one",
                "Correct the name, or set HF_TOKEN if the model is private",
            )
    why = (
        "HF_HUB_OFFLINE forbids to download it"
        if constants.HF_HUB_OFFLINE
        else f"{hub} cannot be reached ({type(error).__name__})"
    )
    return (
        f"the cache of the Hugging Face hub does not hold the model, while {why}",
        _ELSEWHERE.format(model),
    )
