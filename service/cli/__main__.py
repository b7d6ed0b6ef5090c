"""Runs the `reid` program as `python -m service.cli`."""

from service.cli.main import app

app()
