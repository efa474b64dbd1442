"""The adapter store: content-addressed objects, a journal of versions, stored compositions."""
