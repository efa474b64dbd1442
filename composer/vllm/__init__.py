"""The engine part: the only package of `composer` that imports vLLM.

* `schedule`: the rows of a gang are admitted together and advance in lock-step.
* `execute`: the rows' logits are composed before vLLM samples; adapters load in the background.
* `auxiliary`: other models beside the base model, with a KV cache each.
* `workarounds`: what vLLM does wrong on CPU, or does not offer.

`options` are the arguments for vLLM's command line, and `compat` lists what is adjusted in vLLM.
"""
