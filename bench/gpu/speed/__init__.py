"""How fast answers come, beside what memory allows."""
