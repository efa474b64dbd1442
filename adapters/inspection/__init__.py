"""Is this folder a LoRA adapter that fits the base model?"""
