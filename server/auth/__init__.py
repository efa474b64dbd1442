"""Keys: who may use which route and model, and how much."""
