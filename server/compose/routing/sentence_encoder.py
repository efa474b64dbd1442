"""The sentence encoder of `--prompt-encoder`: a BERT-like model in a folder, on the CPU.

The vector of a text is the mean of the last hidden states of its tokens, scaled to length one, as
sentence-transformers computes it with models like all-MiniLM-L6-v2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_TOKENS = 512
"""Of a text, unless the model reads fewer."""

_BATCH = 32
_REMEDY = "Give the folder of a sentence encoder, such as all-MiniLM-L6-v2"


class SentenceEncoder:
    """Computes in one thread of its own with a single core, which the engine does not notice."""

    def __init__(self, folder: Path) -> None:
        """Load the model and its tokenizer.

        Raises:
            ValueError: the folder holds no encoder that pools by the mean; the message says what to
                do.
        """
        _check(folder)
        import torch  # takes a second, and most servers have no encoder
        from transformers import AutoModel, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, loading = AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # transformers raises many kinds for files that it cannot read
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise _wrong(folder, f"cannot be loaded: {reason}. {_REMEDY}") from error
        # Instead of weights that are not in the file, transformers takes random ones.
        missing = sorted(name for name in loading["missing_keys"] if "pooler." not in name)
        if missing or loading["mismatched_keys"]:
            name = missing[0] if missing else next(iter(loading["mismatched_keys"]))
            raise _wrong(folder, f"lacks weights, such as {name}. Download or copy it again")
        if self._tokenizer.pad_token is None:
            raise _wrong(folder, f"has a tokenizer without a padding token. {_REMEDY}")
        self._model: Any = model.eval()
        self._max_tokens = min(
            _json(folder, "sentence_bert_config.json").get("max_seq_length") or MAX_TOKENS,
            self._tokenizer.model_max_length,
            getattr(model.config, "max_position_embeddings", MAX_TOKENS),
            MAX_TOKENS,
        )
        count = torch.get_num_threads()
        self._thread = ThreadPoolExecutor(1, "encoder", torch.set_num_threads, (1,))
        self.encode(["starts the thread"])
        torch.set_num_threads(count)  # threads that start later take over what was set last

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return `[texts, size]` of length one each. Blocks: do not call it on an event loop."""
        batches = [list(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        return np.concatenate(list(self._thread.map(self._encode, batches)))

    def _encode(self, texts: list[str]) -> npt.NDArray[np.float64]:
        import torch

        with torch.inference_mode():
            inputs = self._tokenizer(
                texts,
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            states = self._model(**inputs).last_hidden_state  # [B, T, H] f32
            mask = inputs["attention_mask"][..., None].to(states.dtype)  # [B, T, 1]
            sums = (states * mask).sum(1).double()  # in the direction of the mean
            return np.asarray(torch.nn.functional.normalize(sums, dim=1))


def _check(folder: Path) -> None:
    """Check what the small files say, before anything large is imported or read."""
    if not folder.is_dir():
        raise _wrong(folder, f"is not a folder. {_REMEDY}")
    if not (folder / "config.json").is_file():
        raise _wrong(folder, f"holds no config.json, so no model. {_REMEDY}")
    config = _json(folder, "config.json")
    classes = config.get("architectures") or []
    if config.get("is_decoder") or any("CausalLM" in name or "LMHead" in name for name in classes):
        raise _wrong(folder, f"holds a language model ({', '.join(classes)}). {_REMEDY}")
    if config.get("is_encoder_decoder"):
        raise _wrong(folder, f"holds an encoder-decoder model ({', '.join(classes)}). {_REMEDY}")
    pooling = _json(folder, "1_Pooling/config.json")
    modes = [
        name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True
    ]
    if pooling and modes != ["pooling_mode_mean_tokens"]:
        raise _wrong(
            folder,
            f"pools by {', '.join(modes)} (1_Pooling/config.json), and only the mean of all tokens "
            f"is implemented. {_REMEDY}",
        )


def _json(folder: Path, name: str) -> dict[str, Any]:
    """Return a file of the folder, or an empty dictionary if there is none."""
    try:
        value = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _wrong(folder, f"has an unreadable {name}: {error}. {_REMEDY}") from error
    return value if isinstance(value, dict) else {}


def _wrong(folder: Path, problem: str) -> ValueError:
    return ValueError(f"--prompt-encoder {folder} {problem}.")
