"""Mixed traffic of many clients; every answer is compared with that of the same request alone."""
