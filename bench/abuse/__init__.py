"""What a hostile client sends: one request or connection each, and how to judge what comes back."""
