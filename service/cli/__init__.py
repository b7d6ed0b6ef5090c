"""The `reid` program."""
