"""Requests as clients send them: read, bounded and checked before anything is computed."""
