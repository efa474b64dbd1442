"""Mixtures of experts with routers: specifications, priors and gate files."""
