"""What composed responses say besides vLLM's own fields."""
