"""Work on weights instead of logits: merge, extract and patch adapters."""
