"""The engine part: the only package that imports vLLM's engine.

`scheduler` keeps the rows of a group together, `processor` knows where they stand in the batch,
`sampler` composes their logits and `worker` installs the sampler. Auxiliary models (`auxiliary`)
have a KV cache each in the scheduler (`pools`) and a model runner each in the worker (`runners`).
`options` names them for vLLM's command line, and `compat` lists what they rely on in vLLM.
"""
