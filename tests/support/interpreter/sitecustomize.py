"""Imported by every Python process that finds this folder on its path, as those of a server and its
engine do under test: vLLM's V2 model runner then works on a CPU."""

import tests.support.triton_on_cpu  # noqa: F401
