"""HTTP: our routes in front of vLLM's own OpenAI application, in one process."""
