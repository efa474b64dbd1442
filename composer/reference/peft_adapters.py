"""Adapters of any name in one PEFT model.

PEFT stores adapters as attributes of modules, so it refuses names with a full stop and names of
methods of `Module`, such as `double`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer


class AdaptedModel:
    """A transformers model for inference with adapters, at most one of which is active."""

    def __init__(self, model: Any, adapters: Mapping[str, str | Path]) -> None:
        for name, path in adapters.items():
            if isinstance(model, PeftModel):
                model.load_adapter(str(path), adapter_name=_key(name))
            else:
                model = PeftModel.from_pretrained(model, str(path), adapter_name=_key(name))
        self._model = model.eval()
        self._adapters = frozenset(adapters)
        self._layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]

    def using(self, adapter: str | None) -> Any:
        """Return the model, which computes with one adapter, or with none, until the next call.

        Set what PEFT's `set_adapter` and `disable_adapter` set, without their walk over the
        gradients of all adapters: it takes up to ten times as long as a forward pass.

        Raises:
            KeyError: there is no such adapter.
        """
        if adapter is not None and adapter not in self._adapters:
            raise KeyError(adapter)
        for layer in self._layers:
            layer._disable_adapters = adapter is None
            if adapter is not None:
                layer._active_adapter = [_key(adapter)]
        return self._model


def _key(name: str) -> str:
    """Return the name of an adapter within PEFT."""
    return f"adapter_{name.encode().hex()}"
