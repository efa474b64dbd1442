"""Auxiliary models: what is configured, and the memory they take."""
