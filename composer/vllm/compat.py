"""The supported release of vLLM, and engine settings that composition cannot do with."""

from __future__ import annotations

from vllm.config import VllmConfig

SUPPORTED = "0.32.0"
"""The vLLM release that the tests run."""


def check_engine(config: VllmConfig) -> None:
    """At the start, refuse engine settings under which gangs could not be kept together.

    Raises:
        ValueError: names the setting and the remedy.
    """
    if config.use_v2_model_runner and config.parallel_config.enable_batch_sharded_sampling:
        raise ValueError(
            "composition does not work with batch-sharded sampling, which puts the rows of one "
            "request on several ranks; drop --enable-batch-sharded-sampling"
        )
    if config.speculative_config is not None:
        raise ValueError(
            "composition does not work with speculative decoding; drop --speculative-config"
        )
    if config.kv_transfer_config is not None:
        raise ValueError(
            "composition does not work with KV cache connectors; drop --kv-transfer-config"
        )
