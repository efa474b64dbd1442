"""`composer score` and `composer fit`."""
