"""The version of this package, installed or not; pyproject.toml has the same."""

VERSION = "0.2.0"
