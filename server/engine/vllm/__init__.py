"""vLLM behind the port: its command line, application, renderer and errors."""
