"""A sentence encoder in place of TF-IDF: a tiny random BERT, and the server's choices by it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM, BertTokenizer

import zoo
from composer.mixtures.encoded import EncodedSimilarity
from server.compose.routing.sentence_encoder import SentenceEncoder
from tests.support.live_server import LiveServer, refused, serving
from zoo.prompts import EXAMPLES

WORDS = "what is the of + where does live work count on from a home job ? . ! 1 2 3 4 5 6 7 8 9 0"
TEXTS = ["What is 3 + 4?", "", "Where does Ann live? " * 30, "count on from 7 7 7"]
QUESTION = "Where does Kuti Supiv live?"


def write_encoder(folder: Path, seed: int = 0) -> Path:
    """A BERT of 2 layers with random weights, which knows `WORDS` and letters."""
    folder.mkdir()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), *letters]
    words += [f"##{c}" for c in (*letters, *"0123456789")]
    words = list(dict.fromkeys(words))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    # Without a pooler, like many encoders.
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "bert")


def by_hand(folder: Path, text: str, most: int) -> torch.Tensor:
    """The mean of the states of one text without padding, of length one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text)["input_ids"]
    if len(ids) > most:
        ids = [*ids[: most - 1], tokenizer.sep_token_id]
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    mean = states.mean(0)
    unit: torch.Tensor = mean / mean.norm()
    return unit


def test_vectors_are_those_of_transformers(folder: Path) -> None:
    vectors = SentenceEncoder(folder).encode(TEXTS)
    expected = np.stack([by_hand(folder, text, 64).numpy() for text in TEXTS])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-12)
    # In several batches, and at several times, too.
    many = SentenceEncoder(folder).encode(TEXTS * 20)
    np.testing.assert_allclose(many, np.tile(vectors, (20, 1)), atol=1e-5)


def test_the_length_that_sentence_transformers_states(folder: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    shutil.copytree(folder, short)
    (short / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    expected = by_hand(folder, TEXTS[2], 8).numpy()
    np.testing.assert_allclose(SentenceEncoder(short).encode(TEXTS[2:3])[0], expected, atol=1e-5)


_THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from server.compose.routing.sentence_encoder import SentenceEncoder

torch.set_num_threads(2)
encoder = SentenceEncoder(Path(sys.argv[1]))
counts = [encoder._thread.submit(torch.get_num_threads).result(), torch.get_num_threads()]
with ThreadPoolExecutor(1) as later:
    counts.append(later.submit(torch.get_num_threads).result())
counts.append(encoder._thread.submit(torch.get_num_threads).result())
print(counts)
"""


def test_one_core_and_no_setting_of_others(folder: Path) -> None:
    """In a process of its own: what other tests have set must not count."""
    command = [sys.executable, "-c", _THREADS, str(folder)]
    done = subprocess.run(command, cwd=zoo.PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 2, 2, 1]"


# ---- the index


class Counting:
    """An encoder that notes what it encodes."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.encoder = encoder
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        self.seen += texts
        return self.encoder.encode(texts)


def test_weights_and_familiarity_are_those_of_the_definition(folder: Path) -> None:
    encoder = SentenceEncoder(folder)
    texts = {"sums": ["1 + 2", "3 + 4 + 5", "what is 1 + 1?"], "homes": ["where?", "a home", "job"]}
    index = EncodedSimilarity(encoder, texts)
    asked = by_hand(folder, "what is 5 + 5?", 64).double()
    vectors = {n: [by_hand(folder, t, 64).double() for t in ts] for n, ts in texts.items()}
    scores, familiar = {}, {}
    for name, of_one in vectors.items():
        distance = (asked - sum(of_one) / 3).square().sum()
        scores[name] = float(torch.exp(-distance / 0.1))
        own = [float(a @ b) for i, a in enumerate(of_one) for j, b in enumerate(of_one) if i != j]
        familiar[name] = sum(float(asked @ v) for v in of_one) / 3 / (sum(own) / 6)
    expected = {name: score / sum(scores.values()) for name, score in scores.items()}
    assert index.weights("what is 5 + 5?") == pytest.approx(expected, rel=1e-3)
    assert index.familiarity("what is 5 + 5?", texts) == pytest.approx(familiar, rel=1e-4)


def test_each_text_is_encoded_once(folder: Path) -> None:
    encoder = Counting(SentenceEncoder(folder))
    texts = {"a": ["x y", "z"], "b": ["x y", "y z"], "blank": ["", " "]}
    index = EncodedSimilarity(encoder, texts)
    assert sorted(encoder.seen) == ["x y", "y z", "z"]
    assert index.names == {"a", "b"}
    index.weights("w"), index.familiarity("w", ["a", "b"]), index.weights("w")
    assert encoder.seen[3:] == ["w"]
    changed = EncodedSimilarity(encoder, {"a": ["x y", "new"]}, index)
    assert encoder.seen[4:] == ["new"]
    fresh = EncodedSimilarity(encoder.encoder, {"a": ["x y", "new"]})
    assert changed.familiarity("w", "a") == pytest.approx(fresh.familiarity("w", "a"), rel=1e-4)
    blank = (index.weights(" \n"), index.familiarity("", ["a"]))
    assert blank == ({"a": 0.5, "b": 0.5}, {"a": 0.0})
    # A text of a megabyte is cut before it is read.
    index.weights("w " * 500_000)
    assert len(encoder.seen[-1]) == 4096


# ---- the server


@pytest.fixture(scope="module")
def encoded(
    folder: Path,
    zoo_base: Path,
    zoo_adapters: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiveServer]:
    arguments = [
        *("--model", str(zoo_base), "--prompt-encoder", str(folder)),
        *("--adapters", ",".join(f"{n}={zoo_adapters[n]}" for n in ("chat", "arithmetic"))),
        *(f"--examples={name}={EXAMPLES[name]}" for name in ("chat", "arithmetic")),
        *("--max-model-len", "512", "--max-num-seqs", "8"),
    ]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    with serving(arguments, log, environment) as live:
        yield live


def test_auto_chooses_by_the_encoder(encoded: LiveServer, folder: Path) -> None:
    texts = {name: EXAMPLES[name].read_text().splitlines() for name in ("chat", "arithmetic")}
    index = EncodedSimilarity(SentenceEncoder(folder), texts)
    for question in (QUESTION, "What is 37 + 58?", "zzz qqq", "Count on from 12"):
        weights = index.weights(question)
        nearest = max(weights, key=weights.__getitem__)
        familiarity = index.familiarity(question, [nearest])[nearest]
        for none in (True, min(familiarity - 0.01, 1.0), min(familiarity + 0.01, 1.0)):
            composition = {
                **{"recipe": "mixture", "experts": ["chat", "arithmetic"], "router": "prompt"},
                **{"top_k": 1, "none": none},
            }
            below = 0.6 if none is True else none
            chosen = nearest if familiarity >= below else "base"
            answer = encoded.chat("base", question, composition=composition).json()["composition"]
            assert answer["routing"]["weights"] == {chosen: 1.0}
            assert answer["routing"]["familiarity"][nearest] == pytest.approx(familiarity, abs=1e-4)
            assert answer["plan"]["mixture"]["none"] == below
        auto = encoded.chat("auto", question).json()["composition"]["routing"]
        assert auto["weights"] == {nearest if familiarity >= 0.6 else "base": 1.0}


@pytest.mark.engine
def test_a_start_with_a_wrong_folder(zoo_base: Path, tmp_path: Path) -> None:
    said = refused("--model", str(zoo_base), "--prompt-encoder", str(tmp_path / "nowhere"))
    assert f"--prompt-encoder {tmp_path}/nowhere is not a folder. Give the folder of" in said


def test_wrong_folders(folder: Path, zoo_base: Path, tmp_path: Path) -> None:
    def error(of: Path) -> str:
        with pytest.raises(ValueError, match=f"--prompt-encoder {of} ") as raised:
            SentenceEncoder(of)
        return str(raised.value)

    def copy(name: str) -> Path:
        shutil.copytree(folder, tmp_path / name)
        return tmp_path / name

    assert "holds no config.json" in error(tmp_path)
    assert "holds a language model (LlamaForCausalLM)" in error(zoo_base)
    pooled = copy("pooled")
    (pooled / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (pooled / "1_Pooling/config.json").write_text(json.dumps(modes))
    assert "pools by pooling_mode_cls_token" in error(pooled)
    weightless = copy("weightless")
    (weightless / "model.safetensors").unlink()
    assert "cannot be loaded" in error(weightless)
    deeper = copy("deeper")
    config = json.loads((deeper / "config.json").read_text())
    (deeper / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "lacks weights, such as encoder.layer.2." in error(deeper)
    broken = copy("broken")
    (broken / "config.json").write_text("{")
    assert "has an unreadable config.json" in error(broken)
