"""The routes that vLLM does not have."""
