"""The GPU check: `python -m bench.gpu`."""
