"""From the body of a request to rows of the engine, and back to the response."""
