"""The oracle: the same compositions by transformers and PEFT, slow and obvious.

It shares only its input (`MixtureParameters`, `Filter`) with the code that it checks: no constant,
no kernel, no batching, and no cache unless adapters take turns on it. A test reads the imports.
"""
