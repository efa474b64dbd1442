"""Faults of vLLM worked around; each has a test that fails once vLLM is fixed."""
