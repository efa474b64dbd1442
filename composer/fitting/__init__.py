"""Weights that give examples the highest probability."""
