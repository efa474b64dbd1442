"""The machine that a measurement runs on: its environment, processes, server, clean root."""
