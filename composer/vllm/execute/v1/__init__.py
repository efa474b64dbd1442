"""vLLM's V1 model runner: what composition needs of this runner and no other.

All of it is here, so that the folder can go with the runner.
"""
