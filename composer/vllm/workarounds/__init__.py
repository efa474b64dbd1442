"""Workarounds for vLLM.

`cpu_lora` and `cpu_generator` correct faults on CPU; `tests/engine/test_compat.py` fails once vLLM
is fixed. `lm_head_lora` does what vLLM does not offer, on every device, and stays until vLLM does.
"""
