"""Seams: what the engine part overrides, adjusts and reads in vLLM beyond its documented options.

vLLM is started with official options (`composer.vllm.options`) and none of its modules or classes
is patched. `CHANGED` records, by file of vLLM's package, the whole signatures of what is overridden
or adjusted on instances; `READ` texts of the source that what is read or called only depends on.
There is a table for each model runner, so that it can go with its runner, and one for both. Where
the supported releases (`composer.vllm.releases`) differ, a table has the forms of all of them.
"""
