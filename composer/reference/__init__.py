"""The oracle: the same compositions by transformers and PEFT, slow and obvious.

Nothing here is shared with the engine part except the plan: no kernel, no cache, no batching.
"""
