"""Routers of mixtures: which experts answer, and what the response says about it."""
