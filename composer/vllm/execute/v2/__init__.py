"""vLLM's V2 model runner behind `BatchView`. Nothing else knows of it."""
