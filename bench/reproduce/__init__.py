"""Findings of papers, reproduced in miniature on the zoo."""
