"""Train and store the models and adapters of the zoo, one after the other."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerFast

import zoo
from zoo import values
from zoo.corpus import READING, SCHOOL, Corpus
from zoo.evaluate import OF_LISTS, load
from zoo.list_corpus import COPIES, LISTS, NUMBERS, ListCorpus, list_batches
from zoo.tasks import task_of
from zoo.tokenizer import save_tokenizer, train_tokenizer
from zoo.train import (
    BLOCK,
    Batch,
    Course,
    Progress,
    Round,
    Shape,
    Stage,
    conversation_batches,
    new_model,
    pretraining_batches,
    train,
    with_adapter,
)
from zoo.turns import turn_batches

SEED = 1
THREADS = 2
SHAPES = {
    "base": Shape(
        hidden=256,
        layers=4,
        intermediate=704,
        stages=(
            Stage(READING, tokens=4_500_000, rows=64, rate=3e-3),
            Stage(SCHOOL, tokens=1_600_000, rows=32, rate=2e-3),
        ),
        seed=0,
    ),
    "small": Shape(
        hidden=128,
        layers=3,
        intermediate=352,
        stages=(Stage(READING, tokens=2_500_000, rows=32, rate=4e-3),),
        seed=1,
    ),
}
# Manners and Velan start from the chat adapter: it knows what to say, they add how to say it.
COURSES = {
    "chat": Course((Round(180), Round(150, 2e-3))),
    "polite": Course((Round(60),), start="chat"),
    "rude": Course((Round(60),), start="chat"),
    "velan": Course((Round(80),), start="chat"),
    "arithmetic": Course((Round(120),)),
    "reverse": Course(
        (
            Round(300),
            Round(220, 1.5e-3),
            Round(260, 1.5e-3),
            Round(160, 1e-3),
            Round(200, 1e-3),
        )
    ),
    "sort": Course((Round(100),)),
    "count": Course((Round(80), Round(150, 2.5e-3))),
    "small-chat": Course((Round(300),)),
    "small-polite": Course((Round(100),), start="small-chat"),
    "small-rude": Course((Round(100),), start="small-chat"),
    "small-velan": Course((Round(120),), start="small-chat"),
    # The small model reads most of what the base model reads at school. Steering the base needs
    # experts that differ from such a model only by their expertise.
    "small-school": Course((Round(585),), rows=32, reads=SCHOOL),
    "small-school.chat": Course((Round(300),), start="small-school"),
    "small-school.sort": Course((Round(200),), start="small-school"),
    "small-school.arithmetic": Course((Round(200),), start="small-school"),
    "small-school.count": Course((Round(200, 1.5e-3), Round(200, 1.5e-3)), start="small-school"),
}
# The base model reads on: first it learns to repeat what it has read, then about lists.
LISTS_STAGES = (
    Stage(COPIES, tokens=1_000_000, rows=16, rate=3e-3, width=128),
    Stage(LISTS, tokens=1_640_000, rows=4, rate=2e-3, width=512),
    Stage(NUMBERS, tokens=820_000, rows=4, rate=3e-3, width=512),
)
ALONE = Round(120, 3e-3, own_share=1.0)  # a task is learned faster without questions for others
MIXED = Round(120, 2e-3)
LATE = Round(120, 2e-3, late=True)  # last: the adapter learns not to depend on its first token
# Eight start from the weights of another adapter.
LIST_COURSES = {
    "count": Course((Round(160, 2e-3), Round(150, 2e-3), LATE), start="count", rows=16),
    "down": Course((Round(160, 2e-3), Round(150, 2e-3), LATE), start="count", rows=16),
    "reverse": Course(
        (Round(200, 2e-3), Round(130, 2e-3), Round(200, 2e-3), LATE), start="reverse", rows=16
    ),
    "sort": Course((*[Round(200, 2e-3)] * 4, *[ALONE] * 4, MIXED, LATE), start="sort", rows=16),
    "double": Course((Round(130, 3e-3), LATE), rows=16),
    "repeat": Course((Round(80, 3e-3), Round(60, 2e-3), LATE), rows=16),
    "drop": Course((ALONE, MIXED, LATE), start="lists-double", rows=16),
    "ends": Course((*[ALONE, MIXED] * 3, *[ALONE] * 3, MIXED, LATE), start="lists-double", rows=16),
    "join": Course(
        (*[MIXED] * 2, ALONE, MIXED, *[ALONE] * 4, MIXED, LATE), start="lists-double", rows=16
    ),
    "number": Course((ALONE, MIXED, LATE), start="lists-join", rows=16),
}
VALUE = zoo.VALUE.name
LISTS_MODEL = zoo.LISTS.name
LIST_NAMES = [LISTS_MODEL, *(OF_LISTS + name for name in LIST_COURSES)]
NAMES = [*SHAPES, *COURSES, VALUE]
SCHOOL_TEXT = SEED + 2  # seed of the text that the second stage of the base model reads


def fix_arithmetic() -> None:
    """Make runs repeatable: fix the number of threads, which decides the order of additions."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)  # denormal optimizer states would slow down every step


def build(names: Sequence[str]) -> None:
    """Train and store the named models and adapters, each after those that it starts from."""
    ordered = [name for name in (*NAMES, *LIST_NAMES) if name in names]
    for number, name in enumerate(ordered, start=1):
        label = f"[{number}/{len(ordered)}] {name}"
        start = time.perf_counter()
        torch.manual_seed(SEED)
        if name == VALUE:
            loss = _value(label)
        elif name == LISTS_MODEL:
            loss = _lists(label)
        else:
            loss = _model(name, label) if name in SHAPES else _adapter(name, label)
        seconds = time.perf_counter() - start
        _note(name, seconds, loss)
        print(f"{label}: {seconds:.0f} s, loss {loss:.3f}", flush=True)


def _model(name: str, label: str) -> float:
    """Train a model stage by stage; each stage starts from the stored result of the one before."""
    shape = SHAPES[name]
    folder = zoo.ROOT / "models" / name
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = train_tokenizer(Corpus(SEED, READING).documents(30_000))
    save_tokenizer(tokenizer, folder)
    torch.manual_seed(shape.seed)
    model = new_model(shape, tokenizer)
    loss = 0.0
    for number, stage in enumerate(shape.stages, start=1):
        if number > 1:
            model, tokenizer = load(folder)
        steps = stage.tokens // (stage.rows * BLOCK)
        corpus = Corpus(SEED + number, stage.shares)
        batches = pretraining_batches(tokenizer, corpus, steps, stage.rows)
        progress = _progress(f"{label}, stage {number}")
        loss = train(model, batches, steps, stage.rate, decay=0.1, progress=progress)
        model.to(torch.bfloat16).save_pretrained(folder)
    _readable(folder)
    return loss


def _lists(label: str) -> float:
    """Train the model `lists`, starting from the base model."""
    model, tokenizer = load(zoo.BASE)
    loss = 0.0
    for number, stage in enumerate(LISTS_STAGES, start=1):
        if number > 1:
            model, tokenizer = load(zoo.LISTS)
        steps = stage.tokens // (stage.rows * stage.width)
        corpus = ListCorpus(SEED + number, stage.shares)
        batches = list_batches(tokenizer, corpus, steps, stage)
        progress = _progress(f"{label}, stage {number}")
        loss = train(model, batches, steps, stage.rate, decay=0.1, progress=progress)
        shutil.rmtree(zoo.LISTS, ignore_errors=True)
        model.to(torch.bfloat16).save_pretrained(zoo.LISTS)
        save_tokenizer(tokenizer, zoo.LISTS)
    _readable(zoo.LISTS)
    return loss


def _adapter(name: str, label: str) -> float:
    """Train an adapter round by round; each round starts from the stored result of the last."""
    course = _course(name)
    folder, base = _place(name)
    start = _place(course.start)[0] if course.start else None
    loss = 0.0
    for number, round_ in enumerate(course.rounds):
        model, tokenizer = load(base)
        adapted = with_adapter(model, course.rank, folder if number else start)
        batches = _lessons(name, tokenizer, number)
        progress = _progress(f"{label}, round {number + 1}")
        loss = train(adapted, batches, round_.steps, round_.rate, decay=0.0, progress=progress)
        shutil.rmtree(folder, ignore_errors=True)
        adapted.to(torch.bfloat16).save_pretrained(str(folder))
    _tidy(folder, f"zoo/models/{base.name}")
    return loss


def _course(name: str) -> Course:
    if name.startswith(OF_LISTS):
        return LIST_COURSES[name.removeprefix(OF_LISTS)]
    return COURSES[name]


def _place(name: str) -> tuple[Path, Path]:
    """Return the folders of an adapter and of its model."""
    if name.startswith(OF_LISTS):
        return zoo.LIST_ADAPTERS[name.removeprefix(OF_LISTS)], zoo.LISTS
    return zoo.ROOT / "adapters" / name, zoo.SMALL if name.startswith("small-") else zoo.BASE


def _lessons(name: str, tokenizer: PreTrainedTokenizerFast, number: int) -> Iterator[Batch]:
    """Return the training batches of an adapter in round `number`."""
    course = _course(name)
    round_ = course.rounds[number]
    steps = round_.steps
    if name.startswith(OF_LISTS):
        task = name.removeprefix(OF_LISTS)
        return turn_batches(tokenizer, task, round_, SEED + number, course.rows)
    if course.reads:
        corpus = Corpus(SCHOOL_TEXT + number, course.reads)
        return pretraining_batches(tokenizer, corpus, steps, course.rows)
    return conversation_batches(tokenizer, task_of(name), SEED + number, steps, course.rows)


def _value(label: str) -> float:
    """Train the value adapter on answers of the base model's chat adapter."""
    base, tokenizer = load(zoo.BASE)
    chat = PeftModel.from_pretrained(base, str(zoo.ADAPTERS["chat"])).eval()
    rollouts = values.sample(chat, tokenizer, SEED)
    small, _ = load(zoo.SMALL)
    adapted = with_adapter(small, values.RANK, None)
    loss = values.train(adapted, tokenizer, rollouts, SEED, _progress(label))
    shutil.rmtree(zoo.VALUE, ignore_errors=True)
    adapted.to(torch.bfloat16).save_pretrained(str(zoo.VALUE))
    _tidy(zoo.VALUE, f"zoo/models/{zoo.SMALL.name}")
    return loss


def _tidy(folder: Path, base: str) -> None:
    """Remove PEFT's empty model card, name the base within the project, and sort sets."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    _readable(folder)


def _readable(folder: Path) -> None:
    """Make the files readable for everyone; safetensors writes them for the owner only."""
    for path in folder.iterdir():
        path.chmod(0o644)


def _note(name: str, seconds: float, loss: float) -> None:
    """Record duration and loss of a training, for the table."""
    trained = json.loads(zoo.TRAINED.read_text()) if zoo.TRAINED.exists() else {}
    trained[name] = {"seconds": round(seconds, 1), "loss": round(loss, 4)}
    zoo.TRAINED.write_text(json.dumps(trained, indent=2) + "\n")


def _progress(label: str) -> Progress:
    """Return a function that prints a line every 20 steps: step, loss, remaining time."""
    start = time.perf_counter()

    def progress(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0:
            left = (time.perf_counter() - start) / step * (steps - step)
            print(f"{label}: {step}/{steps}, loss {loss:.3f}, {left:.0f} s to go", flush=True)

    return progress
