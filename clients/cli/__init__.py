"""The command line `composer`."""
