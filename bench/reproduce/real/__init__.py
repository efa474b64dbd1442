"""Findings of papers, reproduced on SmolLM2-135M-Instruct and adapters trained on real text."""
