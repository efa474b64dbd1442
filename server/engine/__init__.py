"""The engine: the port that the server asks, and vLLM behind it."""
