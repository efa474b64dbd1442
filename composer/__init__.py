"""What a composition computes: formulas, recipes, routers, plans. No engine, no HTTP, no tensors.

`composer.vllm`, `composer.reference`, `composer.gate_training` and `composer.tensors` need torch or
an engine; the other modules do not import them.
"""
