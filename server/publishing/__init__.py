"""Adapters on their way into the store: uploads, jobs, verification."""
