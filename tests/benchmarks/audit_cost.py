"""Compare searches a second with the audit and without: what do its rows cost?

``PYTHONPATH=.:tests:tests/support python tests/benchmarks/audit_cost.py [--rounds 6] [--seconds 10]``. Two
servers with the shipped network have the same people. One of them has no audit: this script starts it with
the middleware taken out, as no setting does so. Four clients search one server and then the other, in turn,
so that other work on the machine meets both. Each search finds ten people, who all stand in its row.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
from market1501_folder import machine
from reid_program import ROOT, stop, wait_until_ready
from rich.console import Console
from rich.table import Table
from starlette.types import Receive, Scope, Send

from live_server import crop, enroll, find_free_port, images
from service.api.audit import Audited
from service.cli.main import app

NUM_PEOPLE, NUM_CLIENTS = 64, 4


def without_audit(port: str) -> None:
    """Be `reid serve` without the middleware that audits."""

    async def pass_on(self: Audited, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    Audited.__call__ = pass_on  # type: ignore[method-assign]
    app(["serve", "--port", port])


def start(folder: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server with people."""
    port = find_free_port()
    env = os.environ | {"REID_DATA_DIR": str(folder), "REID_NEAR_DUPLICATE": "off"}
    server = subprocess.Popen([*arguments, str(port)], cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    wait_until_ready(url, server)
    with httpx.Client(base_url=url, timeout=120) as client:
        for seed in range(NUM_PEOPLE):
            enroll(client, crop(seed), identity_id=f"person {seed}")
    return server, url


def rate(url: str, seconds: float) -> float:
    """Return how many searches a second four clients get, one after the other."""
    deadline_s = time.monotonic() + seconds

    def search(seed: int) -> int:
        num = 0
        with httpx.Client(base_url=url, timeout=120) as client:
            while time.monotonic() < deadline_s:
                client.post("/search", files=images(crop(seed, 1))).raise_for_status()
                num += 1
        return num

    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        return sum(clients.map(search, range(NUM_CLIENTS))) / seconds


def main(num_rounds: int, seconds: float) -> None:
    """Run the rounds and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        plain, plain_url = start(Path(folder) / "plain", sys.executable, __file__, "--serve")
        audited, audited_url = start(
            Path(folder) / "audited", sys.executable, "-m", "service.cli", "serve", "--port"
        )
        try:
            rate(plain_url, 2)
            rate(audited_url, 2)
            rounds = [(rate(plain_url, seconds), rate(audited_url, seconds)) for _ in range(num_rounds)]
        finally:
            stop(plain)
            stop(audited)
    ratios = [with_audit / without for without, with_audit in rounds]
    table = Table("round", "without, a second", "with, a second", "ratio")
    for place, ((without, with_audit), ratio) in enumerate(zip(rounds, ratios, strict=True), start=1):
        table.add_row(str(place), f"{without:.1f}", f"{with_audit:.1f}", f"{ratio:.3f}")
    console = Console()
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; {NUM_CLIENTS} clients, {seconds:g} s each")
    console.print(table)
    console.print(f"median of the ratios: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        without_audit(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0)
    chosen = parser.parse_args()
    main(chosen.rounds, chosen.seconds)
