"""The KV caches of all models: their blocks, what asks for them, and who gives way."""
