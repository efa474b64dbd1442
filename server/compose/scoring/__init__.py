"""Scores of texts under compositions, and weights that raise them."""
