"""Images and archives from outside, read within limits."""
