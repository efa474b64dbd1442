"""`composer bake`: one adapter for a sum of adapters."""
