"""Preparation before the server answers: seed adapters and the folders of models."""
