"""Workarounds for faults of vLLM; each has a test that fails once vLLM is fixed."""
