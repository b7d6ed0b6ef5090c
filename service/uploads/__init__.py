"""What a request or an archive brings, read within bounds."""
