"""Calls that score texts and find weights, and the answers to them."""
