"""Mixed traffic of many clients, with every answer compared to that of the same request alone."""
