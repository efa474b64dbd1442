"""Two servers with one adapter store behind vllm-router: what users of several machines rely on."""
