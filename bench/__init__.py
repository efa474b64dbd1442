"""Every claim of speed or quality as one command that prints a table."""
