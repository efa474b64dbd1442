"""Mirrors the folders of the project."""
