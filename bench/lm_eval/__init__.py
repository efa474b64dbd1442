"""lm-evaluation-harness on composed models, and a loop that computes its numbers again."""
