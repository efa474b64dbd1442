"""Convert adapters of other kinds into plain LoRA: exactly, or with a known error."""
