"""Layers around every request, whatever its route: log, traces, draining, store position."""
