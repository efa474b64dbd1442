"""Read an adapter's files and refuse an adapter that the engine would not serve as it was trained.

Refused, with the reason:

* a folder without `adapter_config.json` and `adapter_model.safetensors`; pickles; files that are
  truncated or damaged; a configuration above 4 MiB
* every method but plain LoRA and rsLoRA: DoRA, biases, whole modules, initializations that change
  the base model, and the other fields in `lora_config.CONVERTIBLE` and `UNSUPPORTED`
* tensors that are not factors, a factor without its partner, ranks that do not fit the
  configuration, numbers that are not floats, NaN and infinity
* numbers, scales or products of both beyond `float_scan.LARGEST`, which training never produces
* an adapter that changes nothing: A or B of each module is zero
* with a base model: modules that it lacks (all are named) or has in another shape, and changes of
  the vocabulary

Warnings: a base model other than the one served; stored embeddings and added tokens, which vLLM
ignores; unknown fields of the configuration.

The weights are read in chunks of 1 MiB; a tensor is never held as a whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from adapters.errors import AdapterError
from adapters.files import CONFIG, PICKLES, WEIGHTS
from adapters.generation import ALIAS, ALIAS_RULE
from adapters.inspection import base_fit, lora_config
from adapters.inspection.float_scan import digest_of
from adapters.inspection.lora_config import CONFIG_LIMIT, COPY_AGAIN
from adapters.inspection.lora_tensors import check_pairs, read_contents
from adapters.inspection.model_shapes import ModelShapes
from adapters.inspection.problems import Report
from composer.fields import BASE

__all__ = ["CONFIG", "WEIGHTS", "Report", "inspect"]


def inspect(path: Path | str, alias: str, base: ModelShapes | None = None) -> Report:
    """Read the adapter in the folder `path` and check that it fits `base`, unless that is None.

    Raises:
        AdapterError: the adapter cannot be served; the message says why and what to do.
    """
    return _Inspection(Path(path), alias).run(base)


class _Inspection:
    """The inspection of one adapter."""

    def __init__(self, path: Path, alias: str) -> None:
        self.path = path
        self.alias = alias

    def fail(self, problem: str, remedy: str) -> NoReturn:
        raise AdapterError(self.alias, self.path, problem, remedy)

    def run(self, base: ModelShapes | None) -> Report:
        self.check_alias()
        config_bytes = self.read_config()
        config = lora_config.parse(config_bytes, self.fail)
        lora_config.check_method(config, self.fail)
        scaling = lora_config.read_scaling(config, self.fail)
        try:
            with (self.path / WEIGHTS).open("rb") as file:
                size = file.seek(0, 2)
                contents = read_contents(self.path / WEIGHTS, file, self.fail)
                digest = digest_of(config_bytes, file, size)
        except (OSError, EOFError) as error:
            self.fail(f"{WEIGHTS} cannot be read: {error}", COPY_AGAIN)
        check_pairs(contents.pairs, scaling, self.fail)
        if base is not None:
            transposed = bool(config.get("fan_in_fan_out"))
            base_fit.check_fit(contents, base, self.fail, transposed=transposed)
        base_model = lora_config.read_base_model(config)
        warnings = [
            *base_fit.warnings(self.path, contents, base, base_model),
            *lora_config.warnings(config),
        ]
        return Report(
            rank=scaling.max_rank,
            scaling=tuple(sorted({scaling.of(module)[1] for module in contents.pairs})),
            modules=tuple(sorted(contents.pairs)),
            dtypes=tuple(sorted(contents.dtypes)),
            size_bytes=len(config_bytes) + size,
            parameters=contents.parameters,
            digest=digest,
            base_model=base_model,
            warnings=tuple(warnings),
        )

    def check_alias(self) -> None:
        if self.alias == BASE:
            self.fail(f"the name '{BASE}' is that of the base model", "Choose another name")
        if not ALIAS.fullmatch(self.alias):
            self.fail(
                f"the name is not of {ALIAS_RULE}",
                "Choose a name like 'polite' or 'sql-v2'",
            )

    def read_config(self) -> bytes:
        if not self.path.is_dir():
            self.fail("there is no such folder", f"Give the folder that holds {CONFIG}")
        for name in (CONFIG, WEIGHTS):
            if not (self.path / name).is_file():
                pickles = [p for p in PICKLES if (self.path / p).exists()]
                if name == WEIGHTS and pickles:
                    self.fail(
                        f"its weights are in {pickles[0]}, a format that can run code when loaded",
                        "Save it again with PEFT's save_pretrained(safe_serialization=True)",
                    )
                self.fail(f"{name} is missing", "Give a folder written by PEFT's save_pretrained")
        try:
            with (self.path / CONFIG).open("rb") as file:
                data = file.read(CONFIG_LIMIT + 1)
        except OSError as error:
            self.fail(f"{CONFIG} cannot be read: {error}", COPY_AGAIN)
        if len(data) > CONFIG_LIMIT:
            self.fail(f"{CONFIG} has more than {CONFIG_LIMIT} bytes", "Give the one PEFT wrote")
        return data
