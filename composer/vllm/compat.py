"""Engine settings that composition cannot do with."""

from __future__ import annotations

from vllm.config import VllmConfig


def check_engine(config: VllmConfig) -> None:
    """At the start, refuse engine settings under which gangs could not be kept together.

    Raises:
        ValueError: names the setting and the remedy.
    """
    if config.parallel_config.enable_batch_sharded_sampling:
        raise ValueError(
            "composition does not work with batch-sharded sampling, which puts the rows of one "
            "request on several ranks; drop --enable-batch-sharded-sampling"
        )
    if (interval := config.scheduler_config.prefill_schedule_interval) > 1:
        raise ValueError(
            f"composition does not work with a prefill schedule interval of {interval}: vLLM holds "
            "prompts back for whole steps, and a gang starts in the step in which all its rows "
            "have read theirs; drop --prefill-schedule-interval"
        )
    if config.speculative_config is not None:
        raise ValueError(
            "composition does not work with speculative decoding; drop --speculative-config"
        )
    if config.kv_transfer_config is not None:
        raise ValueError(
            "composition does not work with KV cache connectors; drop --kv-transfer-config"
        )
