"""Logits of prompts, composed, and what is computed of them."""
