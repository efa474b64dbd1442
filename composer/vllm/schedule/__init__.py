"""Gang scheduling: which rows run in a step, and the KV blocks they need."""
