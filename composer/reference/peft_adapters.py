"""Adapters of any name in one model of PEFT, which keeps them as attributes of modules.

An adapter may be called `double`, as a method of every module is, or have a full stop in its name:
PEFT would refuse both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel


def key_of(name: str) -> str:
    """What an adapter is called within PEFT."""
    return f"adapter_{name.encode().hex()}"


def with_adapters(model: Any, adapters: Mapping[str, str | Path]) -> Any:
    """A model of transformers with these adapters; itself if there are none.

    `set_adapter(key_of(name))` switches one on, `disable_adapter()` all of them off.
    """
    for name, path in adapters.items():
        if isinstance(model, PeftModel):
            model.load_adapter(str(path), adapter_name=key_of(name))
        else:
            model = PeftModel.from_pretrained(model, str(path), adapter_name=key_of(name))
    return model
