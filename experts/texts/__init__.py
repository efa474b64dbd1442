"""What the adapters learn: one file per source; `corpus.py` draws by an adapter's name."""
